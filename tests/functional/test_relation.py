import math

import naive_relations as naive
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from distil_nlp.functional import relation

LOSSES = {
    "rkd_distance": (relation.rkd_distance, naive.rkd_distance),
    "rkd_angle": (relation.rkd_angle, naive.rkd_angle),
    "similarity_preserving": (relation.similarity_preserving, naive.similarity_preserving),
    "pkt": (relation.probability_transfer, naive.pkt),
    "info_nce": (
        lambda s, t: relation.info_nce(s, t, temperature=0.3),
        lambda s, t: naive.info_nce(s, t, 0.3),
    ),
    "margin_mse": (
        lambda s, t: relation.margin_mse(s[:, 0], t[:, 0]),
        lambda s, t: naive.margin_mse(s[:, 0], t[:, 0]),
    ),
}
ZERO_WHEN_EQUAL = [name for name in LOSSES if name != "info_nce"]


def states(n=6, width=4, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, width, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()


def widths(name):
    return (4, 4) if name == "info_nce" else (4, 7)


def pair(name, n=6, dtype=torch.float64):
    ours, theirs = widths(name)
    return states(n, ours, 1, dtype), states(n, theirs, 2, dtype).detach()


@pytest.mark.parametrize("n", [2, 3, 6])
@pytest.mark.parametrize("name", LOSSES)
def test_equals_plain_loops(name, n):
    ours, twin = LOSSES[name]
    student, teacher = pair(name, n)
    expected = twin(student.detach().numpy(), teacher.numpy())
    assert expected.any() or (name, n) in {("rkd_distance", 2), ("rkd_angle", 2), ("pkt", 2)}
    np.testing.assert_allclose(ours(student, teacher).detach().numpy(), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", LOSSES)
def test_gradient_is_right(name):
    student, teacher = pair(name, 5)
    assert torch.autograd.gradcheck(lambda s: LOSSES[name][0](s, teacher), (student,))


@pytest.mark.parametrize("name", LOSSES)
def test_the_order_of_examples_does_not_matter(name):
    student, teacher = pair(name)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    loss = LOSSES[name][0]
    torch.testing.assert_close(loss(student[order], teacher[order]), loss(student, teacher)[order])


@pytest.mark.parametrize("name", ZERO_WHEN_EQUAL)
def test_is_zero_and_flat_where_the_student_is_the_teacher(name):
    student = states()
    values = LOSSES[name][0](student, student.detach().clone())
    values.sum().backward()
    assert values.abs().max() < 1e-12
    assert student.grad.abs().max() < 1e-12


@pytest.mark.parametrize("n", [0, 1])
@pytest.mark.parametrize("name", LOSSES)
def test_without_partners_it_is_zero_and_carries_a_gradient(name, n):
    student, teacher = pair(name, n)
    values = LOSSES[name][0](student, teacher)
    assert values.shape == (n,)
    assert (values == 0).all()
    values.sum().backward()
    assert (student.grad == 0).all()


def degenerate(kind, n=4, width=4):
    made = states(n, width).detach().float()
    if kind == "identical":
        made = made[:1].repeat(n, 1)
    elif kind == "two of a kind":
        made[1] = made[0]
    elif kind == "zeros":
        made = torch.zeros(n, width)
    elif kind == "a zero vector":
        made[2] = 0.0
    elif kind == "opposite":
        made[1] = -made[0]
    elif kind == "tiny":
        made = made * 1e-25
    return made


KINDS = ["identical", "two of a kind", "zeros", "a zero vector", "opposite", "tiny"]


@pytest.mark.parametrize("side", ["student", "teacher", "both"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", LOSSES)
def test_degenerate_points_give_finite_values_and_gradients(name, kind, side):
    student = degenerate(kind if side != "teacher" else "plain").requires_grad_()
    teacher = degenerate(kind if side != "student" else "plain")
    values = LOSSES[name][0](student, teacher)
    values.sum().backward()
    assert torch.isfinite(values).all()
    assert torch.isfinite(student.grad).all()
    if kind in ("identical", "zeros"):  # nothing is told apart: no step of whatever size the dtype allows
        assert student.grad.abs().max() < 1e3


@pytest.mark.parametrize("kind", ["identical", "two of a kind"])
@pytest.mark.parametrize("name", LOSSES)
def test_examples_that_coincide_have_the_value_of_the_loops(name, kind):
    student, teacher = degenerate(kind).double(), states(4, 4, 3).detach()
    expected = LOSSES[name][1](student.numpy(), teacher.numpy())
    np.testing.assert_allclose(LOSSES[name][0](student, teacher).numpy(), expected, rtol=1e-9, atol=1e-9)


def test_rounding_between_two_copies_of_an_example_is_not_a_direction():
    """Two copies in a batch differ by rounding, since they are padded or batched differently."""
    student, teacher = pair("rkd_angle", 5, torch.float32)
    copies = teacher.clone()
    copies[1] = copies[0]
    noise = 1e-6 * torch.randn(5, 7, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(
        relation.rkd_angle(student, copies + noise), relation.rkd_angle(student, copies), atol=1e-4, rtol=1e-3
    )


@pytest.mark.parametrize("name", LOSSES)
def test_half_precision_is_compared_in_float32(name):
    student, teacher = pair(name, dtype=torch.bfloat16)
    values = LOSSES[name][0](student, teacher)
    assert values.dtype == torch.float32
    values.sum().backward()
    assert torch.isfinite(student.grad).all()
    torch.testing.assert_close(
        values, LOSSES[name][0](student.double(), teacher.double()).float(), atol=1e-5, rtol=1e-4
    )


def test_rkd_is_the_authors_code_up_to_the_diagonal():
    student, teacher = pair("rkd_distance")
    n = len(student)
    ours, theirs = (torch.cdist(x, x) for x in (student, teacher))
    theirs_to_ours = F.smooth_l1_loss(ours / ours[ours > 0].mean(), theirs / theirs[theirs > 0].mean())
    torch.testing.assert_close(relation.rkd_distance(student, teacher).mean() * (n - 1) / n, theirs_to_ours)


def test_rkd_does_not_see_scale_or_place():
    student, teacher = pair("rkd_distance")
    moved = 3 * student + 5
    torch.testing.assert_close(relation.rkd_distance(moved, teacher), relation.rkd_distance(student, teacher))
    torch.testing.assert_close(relation.rkd_angle(moved, teacher), relation.rkd_angle(student, teacher))


def test_similarity_preserving_is_the_squared_frobenius_norm_over_the_square_of_the_batch():
    student, teacher = pair("similarity_preserving")
    norm = torch.linalg.norm(F.normalize(student @ student.T) - F.normalize(teacher @ teacher.T))
    torch.testing.assert_close(relation.similarity_preserving(student, teacher).mean(), norm**2 / len(student) ** 2)


def test_info_nce_is_cross_entropy_both_ways_and_above_zero():
    student, teacher = pair("info_nce")
    scores = F.cosine_similarity(student[:, None], teacher[None], dim=-1) / 0.3
    target = torch.arange(len(student))
    twin = (F.cross_entropy(scores, target) + F.cross_entropy(scores.T, target)) / 2
    torch.testing.assert_close(relation.info_nce(student, teacher, temperature=0.3).mean(), twin)
    assert 0 < relation.info_nce(teacher, teacher, temperature=0.3).mean() < math.log(len(teacher))


def test_margins_are_compared_within_groups():
    student, teacher = states(7, 1, 1)[:, 0], states(7, 1, 2)[:, 0]
    group = torch.tensor([4, 9, 4, 4, 9, 1, 9])
    values = relation.margin_mse(student, teacher, group=group)
    expected = naive.margin_mse(student.tolist(), teacher.tolist(), group.tolist())
    np.testing.assert_allclose(values.detach().numpy(), expected, rtol=1e-10)
    assert values[5] == 0
    shifted = student + torch.tensor([0.0, 5.0, 0.0, 0.0, 5.0, 7.0, 5.0])  # a group's scores may all be higher
    torch.testing.assert_close(relation.margin_mse(shifted, teacher, group=group), values)


def test_two_examples_are_the_published_margin_mse():
    student, teacher = torch.tensor([2.0, -1.0]), torch.tensor([0.5, 0.0])
    published = F.mse_loss(student[0] - student[1], teacher[0] - teacher[1])
    torch.testing.assert_close(relation.margin_mse(student, teacher).mean(), published)
