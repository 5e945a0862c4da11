import copy
import math

import naive_relations as naive
import numpy as np
import pytest
import torch
from tiny_models import batch, tiny_model

from distil_nlp.blocks import describe
from distil_nlp.capture import capture
from distil_nlp.errors import ModelError, RecipeError
from distil_nlp.objectives import OBJECTIVES, PKT, RKD, Contrastive, RelationGraph, SimilarityPreserving
from distil_nlp.signals import Shape, Signals

# Where the padding is: right, left, none, both sides, a row of nothing else.
VALID = torch.tensor([[1, 1, 1, 1, 0, 0], [0, 0, 1, 1, 1, 1], [1] * 6, [0, 1, 1, 1, 0, 0], [0] * 6, [1, 1, 0, 0, 0, 0]])
BATCH = {"input_ids": torch.ones_like(VALID), "attention_mask": VALID}
POOLED = ("rkd", "similarity_preserving", "pkt", "contrastive")
BUILDS = {
    **{name: lambda name=name, **kw: OBJECTIVES[name](**kw) for name in POOLED},
    "graph of tokens": RelationGraph,
    "graph of examples": lambda **kw: RelationGraph(nodes="examples", **kw),
}


def shape(width, layers=4):
    return Shape(num_layers=layers, width=width, num_heads=4)


def signals(width, seed, layers=4, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    made = torch.randn(layers + 1, *VALID.shape, width, generator=generator, dtype=torch.float64).to(dtype)
    return Signals(hidden_states={number: states.requires_grad_() for number, states in enumerate(made)})


def bound(objective, student_width=8, teacher_width=8):
    objective.bind(shape(student_width), shape(teacher_width))
    return objective


def twin(objective, student, teacher, pooling, student_layer=-1, teacher_layer=-1, **options):
    """What an objective of one pair of layers is to give for each example with tokens."""
    layers = list(student.hidden_states)
    states = [
        signal.hidden_states[layers[number]].detach().numpy()
        for signal, number in ((student, student_layer), (teacher, teacher_layer))
    ]
    ours, theirs = (naive.pool(each, VALID.numpy(), pooling) for each in states)
    if isinstance(objective, RKD):
        distance, angle = naive.rkd_distance(ours, theirs), naive.rkd_angle(ours, theirs)
        return objective.distance * distance + objective.angle * angle
    if isinstance(objective, SimilarityPreserving):
        return naive.similarity_preserving(ours, theirs)
    if isinstance(objective, PKT):
        return naive.pkt(ours, theirs)
    if isinstance(objective, Contrastive):
        return naive.info_nce(ours, theirs, objective.temperature)
    options |= {name: getattr(objective, name) for name in ("steps", "vertices", "edges")} | {"k": objective.neighbours}
    if objective.nodes == "examples":
        return naive.relation_graph(ours, theirs, **options)
    rows = zip(*states, VALID.bool().numpy(), strict=True)
    return np.array([naive.relation_graph(s[v], t[v], **options).mean() for s, t, v in rows if v.any()])


@pytest.mark.parametrize("pooling", ["mean", "cls", "last"])
@pytest.mark.parametrize("name", BUILDS)
def test_equals_plain_loops_over_the_examples_that_have_tokens(name, pooling):
    objective = bound(BUILDS[name](pooling=pooling, weight=0.5))
    student, teacher = signals(8, 1), signals(8, 2)
    assert objective.count(BATCH) == 5
    expected = 0.5 * twin(objective, student, teacher, pooling).mean()
    assert expected > 1e-6
    assert objective(student, teacher, BATCH).item() == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("rkd", {"distance": 3.0, "angle": 0.0}),
        ("rkd", {"distance": 0.0, "angle": 2.0}),
        ("contrastive", {"temperature": 0.5}),
        ("graph of tokens", {"neighbours": 1, "steps": 1, "vertices": 0.0, "edges": 2.0}),
        ("graph of tokens", {"neighbours": 2, "steps": 0, "vertices": 3.0, "edges": 0.0}),
        ("graph of examples", {"neighbours": 2, "steps": 3, "vertices": 0.5, "edges": 4.0}),
    ],
)
def test_options_mean_what_they_say(name, options):
    objective = bound(BUILDS[name](**options))
    student, teacher = signals(8, 1), signals(8, 2)
    expected = twin(objective, student, teacher, "mean").mean()
    assert objective(student, teacher, BATCH).item() == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("name", BUILDS)
def test_it_is_the_mean_over_pairs_of_layers(name):
    objective = bound(BUILDS[name](mapping={1: 2, 3: 4}))
    assert objective.student_needs.hidden_states == {1, 3}
    assert objective.teacher_needs.hidden_states == {2, 4}
    student, teacher = signals(8, 1), signals(8, 2)
    expected = np.mean([twin(objective, student, teacher, "mean", s, t).mean() for s, t in ((1, 2), (3, 4))])
    assert objective(student, teacher, BATCH).item() == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("name", BUILDS)
@pytest.mark.parametrize("mapping", ["attention", "emd"])
def test_learned_layer_weights_start_as_a_mean_over_all_pairs(name, mapping):
    student, teacher = signals(8, 1), signals(8, 2)
    loss = bound(BUILDS[name](mapping=mapping))(student, teacher, BATCH)
    pairs = [[i, j] for i in range(1, 5) for j in range(1, 5)]
    even = bound(BUILDS[name](mapping=pairs))(student, teacher, BATCH)
    torch.testing.assert_close(loss, even, rtol=1e-6 if mapping == "emd" else 0.5, atol=0.0)
    loss.backward()
    assert student.hidden_states[1].grad.abs().sum() > 0


@pytest.mark.parametrize("name", BUILDS)
def test_padding_has_no_part_and_gets_no_gradient(name):
    objective = bound(BUILDS[name]())
    student, teacher = signals(8, 1), signals(8, 2)
    loss = objective(student, teacher, BATCH)
    loss.backward()
    states = student.hidden_states[4]
    padding = ~VALID.bool()
    assert (states.grad[padding] == 0).all()
    assert (states.grad[~padding].abs().sum(-1) > 0).all()
    with torch.no_grad():
        states[padding] = 1e3
    torch.testing.assert_close(objective(student, teacher, BATCH), loss)


@pytest.mark.parametrize("name", BUILDS)
def test_padding_on_the_left_is_padding_on_the_right(name):
    """The same tokens at other places, with more padding."""
    objective = bound(BUILDS[name]())
    student, teacher = signals(8, 1), signals(8, 2)
    moved, places = [], [row.nonzero()[:, 0] for row in VALID]
    for signal in (student, teacher):
        states = torch.zeros(len(VALID), 9, 8, dtype=torch.float64)
        for row, place in enumerate(places):
            states[row, 9 - len(place) :] = signal.hidden_states[4][row, place].detach()
        moved.append(Signals(hidden_states={4: states}))
    mask = (torch.arange(9) >= 9 - VALID.sum(-1, keepdim=True)).long()
    torch.testing.assert_close(
        objective(*moved, {"input_ids": mask, "attention_mask": mask}), objective(student, teacher, BATCH)
    )


@pytest.mark.parametrize("name", BUILDS)
def test_the_order_of_examples_does_not_matter(name):
    objective = bound(BUILDS[name]())
    student, teacher = signals(8, 1), signals(8, 2)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    turned = [Signals(hidden_states={4: signal.hidden_states[4][order]}) for signal in (student, teacher)]
    made = {key: value[order] for key, value in BATCH.items()}
    torch.testing.assert_close(objective(*turned, made), objective(student, teacher, BATCH))


@pytest.mark.parametrize("name", BUILDS)
def test_relational_says_whether_micro_batches_add_up(name):
    objective = bound(BUILDS[name]())
    student, teacher = signals(8, 1), signals(8, 2)
    count = objective.count(BATCH)
    total = torch.zeros((), dtype=torch.float64)
    for rows in (slice(0, 3), slice(3, 6)):
        parts = [Signals(hidden_states={4: signal.hidden_states[4][rows]}) for signal in (student, teacher)]
        total = total + objective(*parts, {key: value[rows] for key, value in BATCH.items()}, count)
    same = torch.allclose(total, objective(student, teacher, BATCH), rtol=1e-9)
    assert same is not objective.relational


def test_a_graph_is_relational_by_its_nodes():
    assert not RelationGraph.relational
    assert not RelationGraph().relational
    assert RelationGraph(nodes="examples").relational


@pytest.mark.parametrize("name", BUILDS)
@pytest.mark.parametrize("rows", ["none", "one", "two", "identical"])
def test_few_or_identical_examples_give_finite_losses_and_gradients(name, rows):
    objective = bound(BUILDS[name]())
    student, teacher = (signals(8, seed, dtype=torch.float32) for seed in (1, 2))
    keep = {"none": [4], "one": [0, 4], "two": [0, 2], "identical": [2, 2, 2, 2]}[rows]
    parts = [Signals(hidden_states={4: signal.hidden_states[4][keep]}) for signal in (student, teacher)]
    made = {key: value[keep] for key, value in BATCH.items()}
    loss = objective(*parts, made)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(student.hidden_states[4].grad).all()
    if rows == "none":
        assert loss == 0


@pytest.mark.parametrize("name", BUILDS)
def test_widths_may_differ(name):
    objective = bound(BUILDS[name](), student_width=6)
    loss = objective(signals(6, 1), signals(8, 2), BATCH)
    loss.backward()
    projections = list(objective.parameters())
    assert [tuple(p.shape) for p in projections] == ([] if name in POOLED[:3] else [(8, 6), (8,)])
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in projections)


@pytest.mark.parametrize("nodes", ["tokens", "examples"])
def test_a_graph_projects_after_its_messages_and_compares_edges_without(nodes):
    objective = bound(RelationGraph(nodes=nodes, neighbours=2), student_width=6).double()
    layer = objective.projection.layers[0]
    student, teacher = signals(6, 1), signals(8, 2)
    expected = twin(
        objective, student, teacher, "mean", project=lambda states: layer(torch.tensor(states)).detach().numpy()
    )
    assert objective(student, teacher, BATCH).item() == pytest.approx(expected.mean(), rel=1e-10)


def test_a_graph_without_vertices_needs_no_projection():
    assert not list(bound(RelationGraph(vertices=0.0, projection="none"), student_width=6).parameters())
    with pytest.raises(ModelError, match="6 wide"):
        bound(RelationGraph(projection="none"), student_width=6)


@pytest.mark.parametrize("name", ["contrastive", "graph of tokens"])
def test_a_projection_is_made_once_and_decided_by_the_seed(name):
    weights = []
    for _ in range(2):
        torch.manual_seed(3)
        objective = bound(BUILDS[name](), student_width=6)
        weights.append(objective.projection.layers[0].weight.clone())
        bound(objective, student_width=6)
        assert (objective.projection.layers[0].weight == weights[-1]).all()
    assert (weights[0] == weights[1]).all()


@pytest.mark.parametrize("name", [name for name in BUILDS if name != "contrastive"])
def test_is_zero_and_flat_where_the_student_is_the_teacher(name):
    objective = bound(BUILDS[name]())
    student = signals(8, 1)
    loss = objective(student, copy.deepcopy(student), BATCH)
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-12)
    assert student.hidden_states[4].grad.abs().max() < 1e-12


def test_contrastive_is_not_zero_where_the_student_is_the_teacher():
    student = signals(8, 1)
    loss = bound(Contrastive())(student, student, BATCH)
    assert 0 < loss.item() < math.log(5)


@pytest.mark.parametrize("name", BUILDS)
@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_bfloat16_models_give_finite_float32_losses_and_gradients(name, family):
    student, teacher = (tiny_model(family, seed=seed).bfloat16() for seed in (1, 2))
    objective = BUILDS[name]()
    objective.bind(describe(student), describe(teacher))
    made = batch()
    with torch.no_grad():
        theirs = capture(teacher, made, objective.teacher_needs)
    loss = objective(capture(student, made, objective.student_needs), theirs, made)
    loss.backward()
    assert loss.dtype == torch.float32
    assert torch.isfinite(loss)
    assert all(torch.isfinite(p.grad).all() for p in student.parameters() if p.grad is not None)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: RKD(distance=-1), "rkd.distance is -1"),
        (lambda: RKD(distance=0, angle=0), "at least one"),
        (lambda: Contrastive(temperature=0), "contrastive.temperature is 0"),
        (lambda: Contrastive(projection="liner"), "linear"),
        (lambda: PKT(pooling="men"), "Did you mean 'mean'"),
        (lambda: RelationGraph(nodes="token"), "Did you mean 'tokens'"),
        (lambda: RelationGraph(neighbours=0), "neighbours is 0"),
        (lambda: RelationGraph(steps=-1), "steps is -1"),
        (lambda: RelationGraph(steps=1.5), "steps is 1.5"),
        (lambda: RelationGraph(vertices=0, edges=0), "at least one"),
        (lambda: RelationGraph(edges=-1), "edges is -1"),
    ],
)
def test_impossible_arguments_are_refused(build, message):
    with pytest.raises(RecipeError, match=message):
        build()


@pytest.mark.parametrize("name", BUILDS)
def test_without_a_teacher_it_is_refused(name):
    with pytest.raises(ModelError, match="no teacher"):
        BUILDS[name]().bind(shape(8), None)
