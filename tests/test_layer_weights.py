"""Learned weights of all pairs of layers, each against loops."""

import copy

import numpy as np
import pytest
import torch
from tiny_models import batch, tiny_model

from distil_nlp.blocks import describe
from distil_nlp.capture import capture, prepare_attention
from distil_nlp.errors import ModelError
from distil_nlp.functional.transport import layer_weights_by_cost, transport_plan
from distil_nlp.objectives import Attentions, HiddenStates
from distil_nlp.signals import Signals


def same(tensor):
    return tensor


def models(item="example", **config):
    student = tiny_model(item=item, seed=1, num_hidden_layers=2, initializer_range=0.3, **config)
    teacher = tiny_model(item=item, seed=2, num_hidden_layers=3, initializer_range=0.3)
    for model in (student, teacher):
        prepare_attention(model, "student")
    return student, teacher


def bound(objective, student, teacher):
    objective.bind(describe(student), describe(teacher))
    return objective


def signals(objective, student, teacher, made):
    ours = capture(student, made, objective.student_needs)
    with torch.no_grad():
        theirs = capture(teacher, made, objective.teacher_needs)
    return ours, theirs


def mean_squares(student, teacher, made):
    """Mean squared differences of hidden states, ``[2, 3, tokens]``, from transformers' own output."""
    ours, theirs = (m(made["input_ids"], made["attention_mask"], output_hidden_states=True) for m in (student, teacher))
    keep = made["attention_mask"].bool()
    return torch.stack(
        [
            torch.stack([(s[keep] - t[keep]).square().mean(-1) for t in theirs.hidden_states[1:]])
            for s in ours.hidden_states[1:]
        ]
    )


def test_emd_starts_even_and_follows_the_step_before():
    student, teacher = models()
    made = batch()
    objective = bound(HiddenStates(mapping="emd"), student, teacher)
    squares = mean_squares(student, teacher, made)
    torch.testing.assert_close(objective(*signals(objective, student, teacher, made), made), squares.mean())
    objective.end_step(same)
    even = torch.full((2,), 1 / 2), torch.full((3,), 1 / 3)
    plan = transport_plan(squares.mean(-1), *even)
    torch.testing.assert_close(objective.layer_weights.pair_weights().double(), plan, atol=1e-7, rtol=0)
    assert (plan > 0).sum() < 6  # not all pairs are left
    loss = objective(*signals(objective, student, teacher, made), made)
    torch.testing.assert_close(loss, (plan.float() * squares.mean(-1)).sum())
    objective.end_step(same)
    weights = [layer_weights_by_cost(squares.mean(-1), plan, dim=dim) for dim in (1, 0)]
    expected = transport_plan(squares.mean(-1), *weights)
    torch.testing.assert_close(objective.layer_weights.pair_weights().double(), expected, atol=1e-6, rtol=0)
    assert objective.layer_map == [(s + 1, t + 1) for s, t in (expected >= 1 / 6).nonzero().tolist()]


def test_evaluation_teaches_nothing_and_a_step_without_items_changes_nothing():
    student, teacher = models()
    objective = bound(HiddenStates(mapping="emd"), student, teacher)
    before = {name: value.clone() for name, value in objective.state_dict().items()}
    with torch.no_grad():
        objective(*signals(objective, student, teacher, batch()), batch())
    objective.end_step(same)
    assert before.keys() == objective.state_dict().keys()
    assert all(torch.equal(value, before[name]) for name, value in objective.state_dict().items())


def attention_twin(objective, student, teacher, made, per_token):
    """Weights ``[rows, 2, 3]`` by loops in numpy."""
    learned = objective.layer_weights
    query, key = (linear.weight.detach().double().numpy() for linear in (learned.query, learned.key))
    states = []
    for model in (student, teacher):
        out = model(made["input_ids"], made["attention_mask"], output_hidden_states=True).hidden_states[1:]
        states.append([h.detach().double().numpy() for h in out])
    rows = []
    for row, mask in enumerate(made["attention_mask"].bool().numpy()):
        weights = np.zeros((2, 3))
        for i, ours in enumerate(states[0]):
            scores = []
            for theirs in states[1]:
                pair = []
                for h, matrix in ((ours, query), (theirs, key)):
                    mean = h[row][mask].mean(0)
                    pair.append(matrix @ ((mean - mean.mean()) / np.sqrt(mean.var() + 1e-5)))
                scores.append(pair[0] @ pair[1] / np.sqrt(len(query)))
            powers = np.exp(np.array(scores) - max(scores))
            weights[i] = powers / powers.sum() / 2
        rows += [weights] * (int(mask.sum()) if per_token else 1)
    return torch.from_numpy(np.stack(rows))


@pytest.mark.parametrize("kind", [HiddenStates, Attentions])
def test_attention_weighs_the_pairs_of_each_example(kind):
    student, teacher = models(hidden_size=16 if kind is Attentions else 32)
    made = batch()
    objective = bound(kind(mapping="attention"), student, teacher)
    loss = objective(*signals(objective, student, teacher, made), made)
    weights = attention_twin(objective, student, teacher, made, kind is HiddenStates)
    plain = kind(mapping=[(s, t) for s in (1, 2) for t in (1, 2, 3)])
    plain.combine = lambda per_pair: torch.stack(per_pair)
    bound(plain, student, teacher)
    values = plain.values(*signals(plain, student, teacher, made), made)  # [pairs, items]
    expected = (weights.flatten(1).t() * values).sum() / values.shape[1]
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=1e-7)
    objective.end_step(same)
    torch.testing.assert_close(objective.layer_weights.pair_weights().double(), weights.mean(0), rtol=1e-4, atol=1e-6)


def test_attention_is_a_constant_to_the_student_and_is_trained_by_relative_losses():
    student, teacher = models()
    made = batch()
    objective = bound(HiddenStates(mapping="attention"), student, teacher)
    objective(*signals(objective, student, teacher, made), made).backward()
    assert all(p.grad is not None and not p.grad.any() for p in objective.parameters())  # nothing to compare with yet
    objective.end_step(same)
    student.zero_grad()
    objective(*signals(objective, student, teacher, made), made).backward()
    got = {name: p.grad.clone() for name, p in student.named_parameters() if p.grad is not None}
    learned = [p.grad.clone() for p in objective.parameters()]
    student.zero_grad()
    squares = mean_squares(student, teacher, made)
    weights = attention_twin(objective, student, teacher, made, per_token=True).permute(1, 2, 0)
    (weights.float() * squares).sum((0, 1)).mean().backward()
    for name, p in student.named_parameters():
        if p.grad is not None and p.grad.any():
            torch.testing.assert_close(got[name], p.grad, rtol=1e-4, atol=1e-7)
    # The attention's own gradient by finite differences of the relative losses.
    difficulty = squares.mean(-1).mean(0)

    def relative():
        weights = attention_twin(objective, student, teacher, made, per_token=True).permute(1, 2, 0)
        return (weights * squares.detach() / difficulty.detach().view(1, 3, 1)).sum((0, 1)).mean()

    for parameter, grad in zip(objective.parameters(), learned, strict=True):
        place = np.unravel_index(int(grad.abs().argmax()), grad.shape)
        with torch.no_grad():
            value = parameter[place].item()
            ends = []
            for step in (0.01, -0.01):
                parameter[place] = value + step
                ends.append(relative())
            parameter[place] = value
        assert grad[place].item() == pytest.approx(((ends[0] - ends[1]) / 0.02).item(), rel=0.02)


def test_a_layer_that_is_easy_for_all_gains_no_attention():
    student, teacher = models()
    objective = bound(HiddenStates(mapping="attention"), student, teacher)
    made = batch()
    learned = objective.layer_weights
    easy = torch.tensor([1e-3, 1.0, 50.0])  # by teacher layer
    values = easy.repeat(2).unsqueeze(1).expand(6, 4)  # [pairs, examples]
    ours, theirs = signals(objective, student, teacher, made)
    for _ in range(2):
        learned.look(ours, theirs, made)
        learned(values).sum().backward()
        learned.end_step(same)
    assert all(p.grad.abs().max() < 1e-6 for p in learned.parameters())


def test_rows_of_padding_alone_and_other_items():
    student, teacher = models()
    made = batch(lengths=(12, 0, 9, 3))
    objective = bound(HiddenStates(mapping="attention"), student, teacher)
    learned = objective.layer_weights
    learned.look(*signals(objective, student, teacher, batch()), made)
    assert [learned(torch.ones(6, items)).shape[0] for items in (4, 3, 24)] == [4, 3, 24]
    for items in (3, 4, 24):
        torch.testing.assert_close(learned(torch.ones(6, items)), torch.ones(items))
    with pytest.raises(ModelError, match="has 7 items in a batch of 4 examples and 24 tokens"):
        learned(torch.ones(6, 7))


def test_needs_of_a_mapping_are_added_to_those_of_its_objective():
    student, teacher = models()
    objective = bound(Attentions(mapping="attention"), student, teacher)
    assert objective.student_needs.hidden_states == {1, 2}
    assert objective.teacher_needs.hidden_states == {1, 2, 3}
    assert objective.teacher_needs.attentions == {1, 2, 3}
    assert not bound(Attentions(mapping="emd"), student, teacher).student_needs.hidden_states


def test_an_objective_made_for_two_models_keeps_what_it_has_learned():
    student, teacher = models()
    objective = bound(HiddenStates(mapping="emd"), student, teacher)
    learned = objective.layer_weights
    assert bound(objective, student, teacher).layer_weights is learned
    assert isinstance(signals(objective, student, teacher, batch())[0], Signals)


@pytest.mark.parametrize("mapping", ["emd", "attention"])
def test_an_objective_can_be_copied_after_a_step(mapping):
    student, teacher = models()
    made = batch()
    objective = bound(HiddenStates(mapping=mapping), student, teacher)
    objective(*signals(objective, student, teacher, made), made).backward()
    objective.end_step(same)
    twin = copy.deepcopy(objective)
    shown = signals(objective, student, teacher, made)
    assert torch.equal(twin(*shown, made), objective(*shown, made))


def test_attention_takes_the_precision_of_its_weights():
    student, teacher = models()
    made = batch()
    objective = bound(HiddenStates(mapping="attention"), student, teacher)
    twin = copy.deepcopy(objective).double()
    shown = signals(objective, student, teacher, made)
    expected = objective(*shown, made)
    got = twin(*signals(twin, copy.deepcopy(student).double(), copy.deepcopy(teacher).double(), made), made)
    assert got.dtype == torch.float64
    torch.testing.assert_close(got, expected.double(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(twin(*shown, made).float(), expected, rtol=1e-5, atol=1e-6)
