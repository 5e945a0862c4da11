import naive_relations as naive
import numpy as np
import pytest
import torch

from distil_nlp.functional.graph import edge_difference, nearest_neighbours, propagate

VALID = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0], [0, 0, 0, 1, 1, 1], [0, 1, 0, 0, 0, 0], [0] * 6]).bool()


def features(width=5, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(5, 6, width, generator=generator, dtype=torch.float64).to(dtype)


def chosen(tensor, graph):
    return tensor[graph][VALID[graph]].detach().numpy()


@pytest.mark.parametrize("k", [1, 2, 4, 50])
def test_neighbours_equal_plain_loops(k):
    made = features()
    adjacency = nearest_neighbours(made, VALID, neighbours=k)
    for graph in range(5):
        keep = VALID[graph]
        expected = naive.neighbours(chosen(made, graph), k)
        np.testing.assert_array_equal(adjacency[graph][keep][:, keep].numpy(), expected)
        assert not adjacency[graph][~keep].any()
        assert not adjacency[graph][:, ~keep].any()
    assert (adjacency == adjacency.transpose(1, 2)).all()
    assert not adjacency.diagonal(dim1=1, dim2=2).any()


def test_nodes_that_tie_are_all_neighbours_in_any_order():
    made = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 2.0], [0.0, 4.0], [-1.0, 0.0]])[None]
    everyone = torch.ones(1, 5, dtype=torch.bool)
    adjacency = nearest_neighbours(made, everyone, neighbours=1)
    assert adjacency[0, 0].tolist() == [False, True, True, True, False]
    order = torch.tensor([4, 2, 0, 3, 1])
    turned = nearest_neighbours(made[:, order], everyone, neighbours=1)
    assert (turned == adjacency[:, order][:, :, order]).all()


@pytest.mark.parametrize("steps", [0, 1, 3])
def test_messages_equal_plain_loops_and_the_matrix_power(steps):
    made = features()
    adjacency = nearest_neighbours(made, VALID, neighbours=2)
    passed = propagate(made, adjacency, VALID, steps=steps)
    for graph in range(4):
        keep = VALID[graph]
        edges = adjacency[graph][keep][:, keep].numpy()
        expected = naive.propagate(chosen(made, graph), edges, steps)
        np.testing.assert_allclose(chosen(passed, graph), expected, rtol=1e-10)
        loops = edges + np.eye(len(edges))
        root = np.diag(loops.sum(1) ** -0.5)
        power = np.linalg.matrix_power(root @ loops @ root, steps)
        np.testing.assert_allclose(chosen(passed, graph), power @ chosen(made, graph), rtol=1e-10, atol=1e-12)
    assert (passed[~VALID] == 0).all()


def test_edges_equal_plain_loops_for_unequal_widths():
    student, teacher = features(5, 1), features(8, 2)
    values = edge_difference(student, teacher, VALID)
    for graph in range(4):
        expected = naive.edge_difference(chosen(student, graph), chosen(teacher, graph))
        np.testing.assert_allclose(chosen(values, graph), expected, rtol=1e-10)
    assert (values[~VALID] == 0).all()
    assert values[3].sum() == 0  # a node alone has no edges


def whole(student, teacher, valid=VALID):
    sides = [propagate(x, nearest_neighbours(x, valid, neighbours=2), valid, steps=2) for x in (student, teacher)]
    return edge_difference(*sides, valid) + (sides[0] - sides[1]).square().mean(-1)


def test_what_stands_in_padding_does_not_matter():
    student, teacher = features(seed=1).requires_grad_(), features(seed=2)
    values = whole(student, teacher)
    values.sum().backward()
    assert (student.grad[~VALID] == 0).all()
    with torch.no_grad():
        student[~VALID] = float("nan")
        teacher[~VALID] = 1e30
    torch.testing.assert_close(whole(student, teacher), values)


def test_gradient_is_right():
    teacher = features(seed=2)
    assert torch.autograd.gradcheck(lambda s: whole(s, teacher), (features(seed=1).requires_grad_(),))


@pytest.mark.parametrize("kind", ["identical", "zeros", "a zero vector", "opposite"])
def test_degenerate_nodes_give_finite_values_and_gradients(kind):
    student = features(dtype=torch.float32)
    if kind == "identical":
        student = student[:, :1].repeat(1, 6, 1)
    elif kind == "zeros":
        student = torch.zeros_like(student)
    elif kind == "a zero vector":
        student[:, 1] = 0.0
    else:
        student[:, 1] = -student[:, 0]
    student.requires_grad_()
    values = whole(student, features(seed=2, dtype=torch.float32))
    values.sum().backward()
    assert torch.isfinite(values).all()
    assert torch.isfinite(student.grad).all()


def test_half_precision_is_compared_in_float32():
    values = whole(features(seed=1, dtype=torch.bfloat16), features(seed=2, dtype=torch.bfloat16))
    assert values.dtype == torch.float32
    assert torch.isfinite(values).all()


@pytest.mark.parametrize("nodes", [0, 1])
def test_graphs_without_edges_are_zero(nodes):
    made, valid = torch.ones(2, nodes, 3, requires_grad=True), torch.ones(2, nodes, dtype=torch.bool)
    assert nearest_neighbours(made, valid, neighbours=3).shape == (2, nodes, nodes)
    values = whole(made, made.detach(), valid)
    values.sum().backward()
    assert values.sum() == 0
