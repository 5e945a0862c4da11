"""Which blocks a student keeps: by name, and by how alike they are on batches."""

import itertools

import numpy as np
import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from tiny_models import FAMILIES, batch, tiny_model
from tiny_seq2seq import collate, seq2seq_rows, tiny_seq2seq

from distil_nlp.blocks import find_blocks
from distil_nlp.errors import ModelError
from distil_nlp.functional import layer_similarity
from distil_nlp.functional.layer_similarity import representatives
from distil_nlp.mapping import STRATEGIES as MAPPINGS
from distil_nlp.students import build_student, choose_blocks
from distil_nlp.students.choice import STRATEGIES, TOKENS


def naive_cka(x, y):
    """By covariances in place of Gram matrices."""
    x, y = (each.double() - each.double().mean(0) for each in (x, y))
    return float((y.T @ x).norm() ** 2 / ((x.T @ x).norm() * (y.T @ y).norm()))


def best_of_all(similarity, count):
    """Of equally good choices the last."""

    def worth(chosen):
        return sum(max(similarity[i][j] for i in chosen) for j in range(len(similarity)))

    choices = list(itertools.combinations(range(len(similarity)), count))
    most = max(map(worth, choices))
    return [chosen for chosen in choices if worth(chosen) > most - 1e-7][-1]


def naive_choice(states, count):
    similarity = [[naive_cka(x, y) for y in states] for x in states]
    return [block + 1 for block in best_of_all(similarity, count)]


def naive_influence(states, count):
    """Token by token, in numpy."""
    influence = []
    for before, after in itertools.pairwise(states):
        cosines = [np.dot(x, y) / np.sqrt(np.dot(x, x) * np.dot(y, y)) for x, y in zip(before, after, strict=True)]
        influence.append(1 - np.mean(cosines))
    return sorted(np.argsort(influence)[::-1][:count] + 1)


def states_of(model, made, names=("hidden_states",)):
    with torch.no_grad():
        output = model(**made, output_hidden_states=True)
    return [output[name][1:] for name in names]


@pytest.mark.parametrize("size", [(4, 2), (6, 3), (7, 1), (5, 5), (9, 4)])
def test_representatives_are_the_best_of_all(size):
    for seed in range(10):
        values = np.random.default_rng(seed).integers(0, 9, (size[0], size[0])) / 8  # with ties, and no symmetry
        assert representatives(torch.from_numpy(values), size[1]) == list(best_of_all(values.tolist(), size[1]))


def test_of_many_choices_a_good_one_is_found_step_by_step(monkeypatch):
    monkeypatch.setattr(layer_similarity, "MOST_SUBSETS", 0)
    found = []
    for seed in range(20):
        places = torch.from_numpy(np.random.default_rng(seed).random(9))
        similarity = -(places.unsqueeze(0) - places.unsqueeze(1)).abs()
        chosen = representatives(similarity, 3)
        assert chosen == sorted(set(chosen))
        best = best_of_all(similarity.tolist(), 3)
        worth = [float(similarity[list(each)].amax(0).sum()) for each in (chosen, best)]
        assert worth[0] >= 1.25 * worth[1]  # both are negative
        for at, one in itertools.product(range(3), range(9)):  # no exchange is any better
            other = [*chosen[:at], one, *chosen[at + 1 :]]
            assert float(similarity[other].amax(0).sum()) <= worth[0] + 1e-8
        found.append(worth[0] == pytest.approx(worth[1]))
    assert sum(found) >= 15


@pytest.mark.parametrize(
    ("rule", "kept"), [("uniform", [2, 4, 6]), ("first", [1, 2, 3]), ("last", [4, 5, 6]), ("skip", [2, 4, 6])]
)
def test_rules_with_a_name(rule, kept):
    teacher = tiny_model(num_hidden_layers=6)
    assert choose_blocks(teacher, num_layers=3, layers=rule) == {"num_hidden_layers": kept}
    student, twin = build_student(teacher, num_layers=3, layers=rule), build_student(teacher, layers=kept)
    assert all(torch.equal(value, twin.state_dict()[name]) for name, value in student.state_dict().items())
    assert set(STRATEGIES) - {"influence"} < set(MAPPINGS)


def test_skip_leaves_the_uppermost_out_where_depths_do_not_divide():
    assert choose_blocks(tiny_model(num_hidden_layers=5), num_layers=2, layers="skip") == {"num_hidden_layers": [2, 4]}


@pytest.mark.parametrize(
    ("family", "item"), [*((family, "example") for family in FAMILIES), ("gpt2", "next_token"), ("llama", "next_token")]
)
def test_cka_keeps_the_blocks_that_stand_for_all(family, item):
    layers = 4 if family in ("distilbert", "gpt2") else 5  # which name that field in their own way
    sizes = {} if layers == 4 else {"num_hidden_layers": 5}
    teacher = tiny_model(family, item, seed=3, initializer_range=0.3, **sizes)
    made = batch(item)
    inputs = {name: made[name] for name in ("input_ids", "attention_mask")}
    mask = made["attention_mask"].bool()
    (states,) = states_of(teacher, inputs)
    assert len(states) == layers
    expected = naive_choice([each[mask] for each in states], 2)
    longer = {name: torch.nn.functional.pad(value, (0, 4)) for name, value in inputs.items()}
    for given in (made, longer):
        assert choose_blocks(teacher.train(), num_layers=2, layers="cka", batches=[given]) == {
            "num_hidden_layers": expected
        }
        assert teacher.training
    if not reloads(teacher.config, expected):
        pytest.skip("this transformers cannot reload a ModernBERT whose layers are all of one kind")
    student = build_student(teacher, num_layers=2, layers="cka", batches=[made])
    twin = build_student(teacher, layers=expected)
    assert all(torch.equal(value, twin.state_dict()[name]) for name, value in student.state_dict().items())


@pytest.mark.parametrize(("family", "item"), [("bert", "example"), ("gpt2", "next_token"), ("llama", "next_token")])
def test_influence_keeps_the_blocks_that_change_the_most(family, item):
    chosen = set()
    for seed in range(4):
        teacher, made = tiny_model(family, item, seed=seed, initializer_range=0.1), batch(item)
        with torch.no_grad():  # another block that does more
            for weight in find_blocks(teacher).modules[seed].parameters():
                weight.mul_(4 if weight.dim() > 1 else 1)
        inputs, mask = {name: made[name] for name in ("input_ids", "attention_mask")}, made["attention_mask"].bool()
        with torch.no_grad():
            states = teacher(**inputs, output_hidden_states=True).hidden_states
        expected = naive_influence([each[mask].double().numpy() for each in states], 2)
        found = choose_blocks(teacher, num_layers=2, layers="influence", batches=[made])
        assert list(found.values()) == [expected]
        chosen.add(tuple(expected))
    assert len(chosen) > 1


def test_a_block_that_does_nothing_has_no_influence():
    teacher = tiny_model("llama", "next_token", seed=1, initializer_range=0.3)
    for projection in (teacher.model.layers[2].self_attn.o_proj, teacher.model.layers[2].mlp.down_proj):
        torch.nn.init.zeros_(projection.weight)
    made = batch("next_token")
    student = build_student(teacher, num_layers=3, layers="influence", batches=iter([made]), intermediate_size=48)
    inputs = {name: made[name] for name in ("input_ids", "attention_mask")}
    assert teacher.config.num_hidden_layers == 4
    torch.testing.assert_close(student(**inputs).logits, teacher(**inputs).logits)


def reloads(config, kept):
    """Whether transformers can read what it writes of a configuration with these layers."""
    kinds = getattr(config, "layer_types", None)
    values = {**config.to_dict(), **({"layer_types": [kinds[layer - 1] for layer in kept]} if kinds else {})}
    try:
        type(config).from_dict({**values, "num_hidden_layers": len(kept)} if kinds else values)
    except StrictDataclassError:
        return False
    return True


def test_blocks_that_are_alike_have_one_that_stands_for_them():
    """Of blocks that add next to nothing one is enough."""
    teacher = tiny_model(num_hidden_layers=6, initializer_range=0.5, seed=1)
    with torch.no_grad():
        for block in (teacher.bert.encoder.layer[at] for at in (1, 2, 4, 5)):  # 1 2 3 give the same, and 4 5 6
            for part in (block.attention.output.dense, block.output.dense):
                part.weight.mul_(1e-3)
                part.bias.zero_()
    (first, second) = choose_blocks(teacher, num_layers=2, layers="cka", batches=[batch()])["num_hidden_layers"]
    assert first in (1, 2, 3)
    assert second in (4, 5, 6)


def test_of_two_that_are_alike_the_upper_is_kept():
    """Which of two stands for the other is a question of rounding, which must not decide."""
    similarity = torch.eye(4, dtype=torch.float64)
    similarity[0, 1] = similarity[1, 0] = similarity[2, 3] = similarity[3, 2] = 0.7
    for noise in (0.0, 1e-13, -1e-13):
        similarity[0, 1] += noise
        assert representatives(similarity, 2) == [1, 3]


def test_no_more_is_read_than_needed_and_sizes_read_all():
    read = []

    def batches(most=10_000):
        for at in range(most):
            read.append(at)
            yield batch(lengths=(12, 12, 12, 12), seed=at)

    teacher = tiny_model()
    choose_blocks(teacher, num_layers=2, layers="cka", batches=batches())
    assert len(read) == -(-TOKENS // 48)
    read.clear()
    student = build_student(teacher, num_layers=2, layers="cka", intermediate_size=20, batches=batches(30))
    assert len(read) == 30
    layers = choose_blocks(teacher, num_layers=2, layers="cka", batches=batches(30))["num_hidden_layers"]
    twin = build_student(teacher, layers=layers, intermediate_size=20, batches=batches(30))
    assert all(torch.equal(value, twin.state_dict()[name]) for name, value in student.state_dict().items())


@pytest.mark.parametrize("family", ["t5", "bart"])
def test_both_stacks_of_an_encoder_decoder_have_their_own(family):
    sizes = {"num_layers": 4} if family == "t5" else {"encoder_layers": 4, "decoder_layers": 4}
    teacher = tiny_seq2seq(family, **sizes)
    made = collate(seq2seq_rows())
    encoder, decoder = states_of(teacher, made, ("encoder_hidden_states", "decoder_hidden_states"))
    source, target = made["attention_mask"].bool(), made["labels"] != -100
    expected = [
        naive_choice([each[source] for each in encoder], 2),
        naive_choice([each[target] for each in decoder], 1),
    ]
    found = choose_blocks(teacher, num_layers=2, decoder_layers=1, layers="cka", batches=[made])
    assert list(found.values()) == expected
    listed = choose_blocks(teacher, num_layers=2, decoder_layers=[1, -1], layers="cka", batches=[made])
    assert list(listed.values()) == [expected[0], [1, 4]]
    assert list(choose_blocks(teacher, num_layers=3, decoder_layers=2, layers="first").values()) == [[1, 2, 3], [1, 2]]
    student = build_student(teacher, num_layers=2, decoder_layers=1, layers="cka", batches=[made])
    twin = build_student(teacher, layers=expected[0], decoder_layers=expected[1])
    assert all(torch.equal(value, twin.state_dict()[name]) for name, value in student.state_dict().items())


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"layers": "cka"}, "not how many"),
        ({"layers": "first"}, "not how many"),
        ({"num_layers": 2, "layers": "cka"}, "no batch"),
        ({"num_layers": 2, "layers": "cka", "batches": []}, "no batch"),
        ({"num_layers": 2, "layers": "influence"}, "no batch"),
        ({"num_layers": 2, "layers": "lst"}, "Did you mean 'last'"),
        ({"num_layers": 5, "layers": "cka", "batches": [batch()]}, "1 to 4"),
        ({"num_layers": 2, "layers": [1, 2]}, "list of layers"),
    ],
)
def test_what_cannot_be_chosen_is_refused(asked, words):
    with pytest.raises(ModelError, match=words):
        build_student(tiny_model(), **asked)
