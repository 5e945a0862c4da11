"""Objectives on hidden states and self-attention, against what the models' own modules give."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from tiny_models import tiny_model
from tiny_objectives import make, models, run, signals
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from distil_nlp.blocks import describe
from distil_nlp.capture import prepare_attention
from distil_nlp.errors import ModelError, RecipeError
from distil_nlp.objectives import CKA, Attentions, ClsStates, Embeddings, Gram, HiddenStates, MiniLM, MiniLMv2

SIDES = ("right", "left")


def padded(side):
    """Examples of 12, 7, 9 and 3 tokens."""
    made = make()
    if side == "left":
        lengths = made["attention_mask"].sum(1)
        for key in ("input_ids", "attention_mask"):
            made[key] = torch.stack([row.roll(12 - int(n)) for row, n in zip(made[key], lengths, strict=True)])
    return made


def hidden_states(model, made):
    return model(made["input_ids"], made["attention_mask"], output_hidden_states=True).hidden_states


def valid_states(model, made, block):
    """The hidden states of each example's tokens."""
    keep = made["attention_mask"].bool()
    return [states[row] for states, row in zip(hidden_states(model, made)[block], keep, strict=True)]


# ---- vectors ----


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("loss", ["cosine", "normalized"])
def test_hidden_states_by_direction(loss, side):
    student, teacher = models()
    made = padded(side)
    got = run(HiddenStates(mapping={1: 2, 4: 3}, loss=loss), student, teacher, made)
    twin = []
    for s, t in ((1, 2), (4, 3)):
        ours, theirs = (torch.cat(valid_states(m, made, b)) for m, b in ((student, s), (teacher, t)))
        distance = 1 - F.cosine_similarity(ours, theirs)
        twin.append(distance.mean() * (2 if loss == "normalized" else 1))
    torch.testing.assert_close(got, torch.stack(twin).mean())


@pytest.mark.parametrize("side", SIDES)
def test_cls_states_are_the_first_tokens_directions(side):
    student, teacher = models()
    made = padded(side)
    got = run(ClsStates(mapping={2: 2, 4: 4}), student, teacher, made)
    total = 0.0
    for block in (2, 4):
        for ours, theirs in zip(*(valid_states(m, made, block) for m in (student, teacher)), strict=True):
            total += (ours[0] / ours[0].norm() - theirs[0] / theirs[0].norm()).square().sum() / 8
    torch.testing.assert_close(got, total)


def test_cls_states_of_a_row_of_padding_alone_do_not_count():
    student, teacher = models()
    made = make()
    made["attention_mask"][3] = 0
    objective = ClsStates()
    alone = run(objective, student, teacher, {key: value[:3] for key, value in made.items()})
    assert objective.count(made) == 3
    torch.testing.assert_close(run(ClsStates(), student, teacher, made), alone)


@pytest.mark.parametrize("side", SIDES)
def test_embeddings_are_mse_loss_of_the_first_blocks_inputs(side):
    student, teacher = models()
    made = padded(side)
    twin = F.mse_loss(*(torch.cat(valid_states(m, made, 0)) for m in (student, teacher)))
    torch.testing.assert_close(run(Embeddings(), student, teacher, made), twin)


def test_embeddings_ask_nothing_of_depths():
    shallow, deep = tiny_model(num_hidden_layers=2, hidden_size=16), tiny_model()
    for student, teacher in ((shallow, deep), (deep, shallow)):
        objective = Embeddings(projection={"kind": "mlp"})
        assert torch.isfinite(run(objective, student, teacher, make()))
        assert len(objective.projection.layers) == 1


@pytest.mark.parametrize("projection", ["linear", "mlp", "orthogonal", {"kind": "linear", "shared": True}, "teacher"])
@pytest.mark.parametrize("objective", [HiddenStates, ClsStates, Embeddings])
def test_every_projection_serves_every_objective_on_vectors(objective, projection):
    if projection == "teacher":
        projection = {"kind": "orthogonal", "side": "teacher"}
    student, teacher = models(width=16)
    made = objective(projection=projection)
    run(made, student, teacher, make()).backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in made.parameters())
    parameters = list(made.parameters())
    made.bind(describe(student), describe(teacher))  # binding again keeps what has been trained
    assert all(one is other for one, other in zip(parameters, made.parameters(), strict=True))


# ---- relations of tokens ----


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("width", [16, 32])
def test_cka_is_one_minus_the_alignment_of_each_example(side, width):
    student, teacher = models(width=width)
    made = padded(side)
    got = run(CKA(mapping={2: 3}), student, teacher, made)
    twin = []
    for x, y in zip(valid_states(student, made, 2), valid_states(teacher, made, 3), strict=True):
        x, y = x - x.mean(0), y - y.mean(0)
        twin.append(1 - (y.T @ x).norm() ** 2 / ((x.T @ x).norm() * (y.T @ y).norm()))
    torch.testing.assert_close(got, torch.stack(twin).mean())
    assert not list(CKA().parameters())


def test_cka_does_not_count_examples_of_one_token():
    student, teacher = models()
    made = make(lengths=(12, 7, 1, 1))
    objective = CKA()
    loss = run(objective, student, teacher, made)
    assert objective.count(made) == 2
    torch.testing.assert_close(loss, run(CKA(), student, teacher, {key: value[:2] for key, value in made.items()}))
    loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in student.parameters() if p.grad is not None)


@pytest.mark.parametrize("side", SIDES)
def test_gram_compares_cosines_of_all_pairs_of_tokens(side):
    student, teacher = models(width=16)
    made = padded(side)
    got = run(Gram(mapping={2: 3}), student, teacher, made)
    twin = []
    for x, y in zip(valid_states(student, made, 2), valid_states(teacher, made, 3), strict=True):
        cosines = (F.cosine_similarity(a[:, None], a[None], dim=-1) for a in (x, y))
        twin.append(F.mse_loss(*cosines))
    torch.testing.assert_close(got, torch.stack(twin).mean())


# ---- self-attention ----


def projections(model, made, block, name):
    """Queries, keys or values of each example's tokens, from BERT's own modules: ``[tokens, width]``."""
    linear = getattr(model.bert.encoder.layer[block - 1].attention.self, name)
    return [linear(states) for states in valid_states(model, made, block - 1)]


def by_head(vectors, heads):
    return vectors.unflatten(1, (heads, -1)).transpose(0, 1)  # [heads, tokens, width]


def scores(left, right, heads):
    return by_head(left, heads) @ by_head(right, heads).mT / (left.shape[1] // heads) ** 0.5


def mean_kl(student_scores, teacher_scores):
    logs = student_scores.log_softmax(-1), teacher_scores.log_softmax(-1)
    return F.kl_div(*logs, reduction="none", log_target=True).sum(-1).mean()


def mean_over_examples(form, student, teacher, made, blocks, names, heads):
    """The mean over examples of ``form`` on the scores of two kinds of vectors."""
    sides = []
    for model, block in zip((student, teacher), blocks, strict=True):
        vectors = [projections(model, made, block, name) for name in names]
        sides.append([scores(left, right, heads) for left, right in zip(*vectors, strict=True)])
    return torch.stack([form(ours, theirs) for ours, theirs in zip(*sides, strict=True)]).mean()


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize(("loss", "on", "form"), [("kl", "probabilities", mean_kl), ("mse", "scores", F.mse_loss)])
def test_attentions_by_divergence_or_scores(loss, on, form, side):
    student, teacher = models(width=16)
    made = padded(side)
    got = run(Attentions(mapping={2: 3}, loss=loss, on=on), student, teacher, made)
    twin = mean_over_examples(form, student, teacher, made, (2, 3), ("query", "key"), 4)
    torch.testing.assert_close(got, twin)


@pytest.mark.parametrize("side", SIDES)
def test_minilm_is_maps_and_value_relations_of_the_last_layer(side):
    student, teacher = models(width=16)
    made = padded(side)
    twin = sum(
        mean_over_examples(mean_kl, student, teacher, made, (4, 4), names, 4)
        for names in (("query", "key"), ("value", "value"))
    )
    torch.testing.assert_close(run(MiniLM(), student, teacher, made), twin)


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("heads", [1, 4, 8])
def test_minilm_v2_is_three_relations_of_any_number_of_heads(side, heads):
    student, teacher = models(width=16)
    made = padded(side)
    relations = {"query": 1.0, "key": 0.5, "value": 2}
    objective = MiniLMv2(mapping={-1: 3}, relation_heads=heads, relations=relations)
    twin = sum(
        weight * mean_over_examples(mean_kl, student, teacher, made, (4, 3), (name, name), heads)
        for name, weight in relations.items()
    )
    got = run(objective, student, teacher, made)
    torch.testing.assert_close(got, twin)
    weights = [getattr(student.bert.encoder.layer[3].attention.self, name).weight for name in relations]
    for one, other in zip(torch.autograd.grad(got, weights), torch.autograd.grad(twin, weights), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-7)


def test_minilm_v2_by_default_has_the_teachers_number_of_heads_and_all_relations():
    student, teacher = tiny_model(num_attention_heads=2), tiny_model(seed=1)
    for model in (student, teacher):
        prepare_attention(model, "student")
    made = make()
    explicit = MiniLMv2(relation_heads=4, relations={"query": 1, "key": 1, "value": 1})
    torch.testing.assert_close(run(MiniLMv2(), student, teacher, made), run(explicit, student, teacher, made))


def llama_vectors(model, made, example, name, *, rotary):
    """Vectors of the last block, from Llama's own modules, shared ones repeated: ``[heads, tokens, width]``."""
    keep = made["attention_mask"][example].bool()
    layer = model.model.layers[-1]
    states = layer.input_layernorm(hidden_states(model, made)[-2])
    vectors = getattr(layer.self_attn, f"{name}_proj")(states).unflatten(2, (-1, 8)).transpose(1, 2)
    if rotary:
        cos, sin = model.model.rotary_emb(states, torch.arange(states.shape[1])[None])
        vectors = apply_rotary_pos_emb(vectors, vectors, cos, sin)[0]
    vectors = vectors[example][:, keep]
    return torch.cat([vectors[h * len(vectors) // 4][None] for h in range(4)])


@pytest.mark.parametrize("relation", ["q", "k", "v"])
def test_minilm_v2_of_a_causal_model_with_grouped_queries(relation):
    student, teacher = (tiny_model("llama", "next_token", seed=s) for s in (1, 2))
    made = make("next_token")
    twin = []
    for example in range(4):
        sides = []
        for model in (student, teacher):
            vectors = llama_vectors(model, made, example, relation, rotary=relation != "v")
            side_by_side = vectors.transpose(0, 1).flatten(1)
            related = scores(side_by_side, side_by_side, 8)
            later = torch.ones(related.shape[1:]).triu(1).bool()
            sides.append(related.masked_fill(later, -1e9))
        twin.append(mean_kl(*sides))
    for model in (student, teacher):
        prepare_attention(model, "student")
    name = {"q": "query", "k": "key", "v": "value"}[relation]
    got = run(MiniLMv2(relation_heads=8, relations={name: 1}), student, teacher, made)
    torch.testing.assert_close(got, torch.stack(twin).mean())


@pytest.mark.parametrize(
    "objective", [MiniLM, MiniLMv2, lambda: Attentions(loss="kl"), lambda: Attentions(on="scores")]
)
@pytest.mark.parametrize("family", ["llama", "gpt2", "modernbert", "distilbert"])
def test_objectives_on_attention_take_every_family(objective, family):
    item = "next_token" if family in ("llama", "gpt2") else "example"
    student, teacher = (tiny_model(family, item, seed=s) for s in (1, 2))
    if not describe(student).attention_inputs:
        pytest.skip(f"{family} does not use AttentionInterface in this version of transformers")
    for model in (student, teacher):
        prepare_attention(model, "student")
    loss = run(objective(), student, teacher, make(item))
    loss.backward()
    assert loss > 0
    assert torch.isfinite(loss)
    assert all(torch.isfinite(p.grad).all() for p in student.parameters() if p.grad is not None)


def test_attentions_kl_of_a_model_that_gives_finished_maps_only():
    student, teacher = (tiny_model("deberta-v2", seed=s) for s in (1, 2))
    for model in (student, teacher):
        prepare_attention(model, "student")
    made = make()
    outputs = [
        m(made["input_ids"], made["attention_mask"], output_attentions=True).attentions[1] for m in (student, teacher)
    ]
    twin = []
    for example, length in enumerate((12, 7, 9, 3)):
        maps = [each[example, :, :length, :length].log() for each in outputs]
        twin.append(mean_kl(*maps))
    objective = Attentions(mapping={2: 2}, loss="kl")
    torch.testing.assert_close(run(objective, student, teacher, made), torch.stack(twin).mean(), rtol=1e-4, atol=1e-6)
    student.train()  # maps after dropout
    loss = run(objective, student, teacher, made)
    loss.backward()
    assert torch.isfinite(loss)
    assert loss < 5
    assert all(torch.isfinite(p.grad).all() for p in student.parameters() if p.grad is not None)


def test_unequal_numbers_of_heads():
    student, teacher = tiny_model(num_attention_heads=2), tiny_model(seed=1)
    for model in (student, teacher):
        prepare_attention(model, "student")
    for objective in (MiniLMv2(), Attentions(loss="kl"), Attentions(on="scores")):
        loss = run(objective, student, teacher, make())
        loss.backward()
        assert loss > 0


def test_example_values_are_zero_for_rows_of_padding_alone():
    student, teacher = models()
    made = make()
    made["attention_mask"][1] = 0
    for objective in (MiniLM(), MiniLMv2(), Attentions(loss="kl"), Attentions(on="scores"), CKA(), Gram()):
        values = objective.values(*signals(objective, student, teacher, made), made)
        assert values[1] == 0
        assert objective.count(made) == 3
        assert torch.isfinite(values).all()


# ---- what is refused ----


def test_models_that_give_finished_maps_only_are_refused():
    finished, bert = describe(tiny_model("deberta-v2")), describe(tiny_model())
    for objective in (MiniLM(), MiniLMv2(), Attentions(on="scores")):
        for student, teacher in ((finished, bert), (bert, finished)):
            with pytest.raises(ModelError, match="Use the objective attentions"):
                objective.bind(student, teacher)
    Attentions().bind(finished, bert)


def test_minilm_refuses_unequal_numbers_of_heads():
    shape = describe(tiny_model())
    with pytest.raises(ModelError, match="Use minilm_v2"):
        MiniLM().bind(dataclasses.replace(shape, num_heads=2), shape)


def test_minilm_v2_refuses_relation_heads_that_do_not_divide():
    student, teacher = models(width=16)
    with pytest.raises(ModelError, match="16 wide, which 5 does not divide"):
        run(MiniLMv2(relation_heads=5), student, teacher, make())


@pytest.mark.parametrize(
    ("objective", "arguments", "message"),
    [
        (HiddenStates, {"loss": "cosin"}, "Did you mean 'cosine'"),
        (HiddenStates, {"projection": "linaer"}, "Did you mean 'linear'"),
        (Attentions, {"loss": "lk"}, "attentions.loss is 'lk'"),
        (Attentions, {"on": "score"}, "Did you mean 'scores'"),
        (Attentions, {"loss": "kl", "on": "scores"}, "between probabilities"),
        (MiniLMv2, {"relation_heads": 0}, "whole number above 0"),
        (MiniLMv2, {"relations": {"querry": 1}}, "Did you mean 'query'"),
        (MiniLMv2, {"relations": {"query": -1}}, "not negative"),
        (MiniLMv2, {"relations": {"query": 0}}, "No relation counts"),
        (MiniLMv2, {"relations": ["query"]}, "gives each relation a weight"),
    ],
)
def test_impossible_arguments_are_refused(objective, arguments, message):
    with pytest.raises(RecipeError, match=message):
        objective(**arguments)
