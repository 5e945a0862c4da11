import itertools

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from distil_nlp.errors import ModelError, RecipeError
from distil_nlp.projection import Orthogonal, Projection, ProjectionSettings


def widths(projection):
    student, teacher = projection.match(torch.randn(2, 3, 5), torch.randn(2, 3, 8), 0)
    return student.shape[-1], teacher.shape[-1]


@pytest.mark.parametrize("kind", ["auto", "linear", "mlp", "orthogonal"])
def test_the_student_comes_to_the_teachers_width(kind):
    assert widths(Projection(kind, student_width=5, teacher_width=8, count=1)) == (8, 8)


@pytest.mark.parametrize("kind", ["auto", "orthogonal"])
def test_the_teacher_comes_to_the_students_width(kind):
    projection = Projection({"kind": kind, "side": "teacher"}, student_width=5, teacher_width=8, count=1)
    assert widths(projection) == (5, 5)
    assert isinstance(projection.layers[0], Orthogonal)


def test_the_side_that_is_not_projected_is_left_as_it_is():
    student, teacher = torch.randn(2, 5), torch.randn(2, 8)
    assert Projection("linear", student_width=5, teacher_width=8, count=1).match(student, teacher, 0)[1] is teacher
    projection = Projection({"side": "teacher"}, student_width=5, teacher_width=8, count=1)
    assert projection.match(student, teacher, 0)[0] is student


def test_equal_widths_have_no_parameters_unless_a_kind_is_asked_for():
    assert not list(Projection("auto", student_width=5, teacher_width=5, count=3).parameters())
    assert not list(Projection("none", student_width=5, teacher_width=5, count=3).parameters())
    assert len(Projection("linear", student_width=5, teacher_width=5, count=3).layers) == 3


@pytest.mark.parametrize("kind", ["linear", "mlp", "orthogonal"])
def test_one_map_for_each_pair_or_one_for_all(kind):
    hidden_state = torch.randn(2, 5)
    own = Projection(kind, student_width=5, teacher_width=8, count=3)
    shared = Projection({"kind": kind, "shared": True}, student_width=5, teacher_width=8, count=3)
    assert (len(own.layers), len(shared.layers)) == (3, 1)
    assert not torch.equal(own(hidden_state, 0), own(hidden_state, 2))
    assert torch.equal(shared(hidden_state, 0), shared(hidden_state, 2))


def test_mlp_is_two_linear_maps_with_gelu_between_as_wide_as_the_wider():
    projection = Projection("mlp", student_width=5, teacher_width=8, count=1)
    first, _, second = projection.layers[0]
    hidden_state = torch.randn(2, 5)
    twin = F.gelu(hidden_state @ first.weight.T + first.bias) @ second.weight.T + second.bias
    torch.testing.assert_close(projection(hidden_state, 0), twin)
    assert first.weight.shape == (8, 5)


def orthonormal(matrix):
    small = min(matrix.shape)
    gram = matrix @ matrix.T if matrix.shape[0] == small else matrix.T @ matrix
    return torch.dist(gram, torch.eye(small, dtype=matrix.dtype)) < 1e-5


@pytest.mark.parametrize(("in_width", "out_width"), [(5, 8), (8, 5), (6, 6)])
def test_orthogonal_stays_so_under_adamw_and_learns(in_width, out_width):
    torch.manual_seed(0)
    layer, target = Orthogonal(in_width, out_width), Orthogonal(in_width, out_width)
    assert orthonormal(layer.matrix)
    torch.testing.assert_close(layer.matrix, layer.weight)  # what it starts from is orthonormal already
    optimizer = torch.optim.AdamW(layer.parameters(), lr=0.01, weight_decay=0.1)
    inputs = torch.randn(64, in_width)
    losses = []
    for _ in range(150):
        loss = F.mse_loss(layer(inputs), target(inputs).detach())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert orthonormal(layer.matrix)
    assert losses[-1] < losses[0] / 2
    if out_width >= in_width:  # an isometry
        torch.testing.assert_close(layer(inputs).norm(dim=-1), inputs.norm(dim=-1))


@pytest.mark.parametrize(("in_width", "out_width"), [(3, 5), (5, 3), (4, 4)])
def test_orthogonal_gradcheck(in_width, out_width):
    torch.manual_seed(0)
    layer = Orthogonal(in_width, out_width).double()
    inputs = torch.randn(7, in_width, dtype=torch.float64)
    weight = torch.randn(out_width, in_width, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda w: torch.func.functional_call(layer, {"weight": w}, inputs), (weight,))


def test_a_teachers_projection_cannot_make_the_target_constant():
    """Trained with nothing but the wish for a small target, it keeps the variance of as many directions."""
    torch.manual_seed(0)
    projection = Projection({"side": "teacher"}, student_width=3, teacher_width=6, count=1)
    optimizer = torch.optim.AdamW(projection.parameters(), lr=0.05)
    teacher = torch.randn(200, 6)
    for _ in range(100):
        student, target = projection.match(torch.zeros(200, 3), teacher, 0)
        loss = F.mse_loss(student, target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    least = torch.linalg.eigvalsh(teacher.T @ teacher)[:3].sum()  # what the poorest directions hold
    assert projection(teacher, 0).square().sum() >= least * 0.999


@pytest.mark.parametrize("kind", ["linear", "mlp", "orthogonal"])
def test_a_checkpoint_brings_it_back(kind, tmp_path):
    made = [Projection(kind, student_width=5, teacher_width=8, count=2) for _ in range(2)]
    hidden_state = torch.randn(3, 5)
    loss = made[0](hidden_state, 0).square().sum() + made[0](hidden_state, 1).sum()
    loss.backward()
    torch.optim.AdamW(made[0].parameters(), lr=0.1).step()
    save_file(made[0].state_dict(), str(tmp_path / "objectives.safetensors"))
    made[1].load_state_dict(load_file(str(tmp_path / "objectives.safetensors")))
    for pair in (0, 1):
        torch.testing.assert_close(*(each(hidden_state, pair) for each in made), rtol=0, atol=0)


@pytest.mark.parametrize("kind", ["linear", "mlp", "orthogonal"])
def test_a_seed_decides_its_first_weights(kind):
    made = []
    for _ in range(2):
        torch.manual_seed(3)
        made.append(Projection(kind, student_width=5, teacher_width=8, count=2))
    for one, other in zip(*(m.parameters() for m in made), strict=True):
        assert torch.equal(one, other)


def test_bfloat16_representations_are_projected_in_float32():
    for kind, side in itertools.product(["linear", "mlp", "orthogonal"], ["student"]):
        projection = Projection({"kind": kind, "side": side}, student_width=5, teacher_width=8, count=1)
        assert projection(torch.randn(2, 5).bfloat16(), 0).dtype == torch.float32
        assert projection.double()(torch.randn(2, 5).double(), 0).dtype == torch.float64


def test_none_refuses_unequal_widths():
    with pytest.raises(ModelError, match="5 wide, the teacher 8"):
        Projection("none", student_width=5, teacher_width=8, count=1)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("linaer", "Did you mean 'linear'"),
        ({"kind": "cubic"}, "Unknown projection 'cubic'"),
        ({"side": "techer"}, "Did you mean 'teacher'"),
        ({"sharde": True}, "Did you mean 'shared'"),
        ({"shared": "yes"}, "true or false"),
        ({"kind": "linear", "side": "teacher"}, "map every input to the same point"),
        ({"kind": "mlp", "side": "teacher"}, "kind: orthogonal"),
        (7, "one of the kinds, or a mapping"),
    ],
)
def test_what_does_not_make_sense_is_refused(spec, message):
    with pytest.raises(RecipeError, match=message):
        ProjectionSettings.read(spec)


def test_settings_are_read_from_a_name_a_mapping_or_settings():
    settings = ProjectionSettings("linear", shared=True)
    assert ProjectionSettings.read("linear") == ProjectionSettings("linear")
    assert ProjectionSettings.read({"kind": "linear", "shared": True}) == settings
    assert ProjectionSettings.read(settings) is settings
