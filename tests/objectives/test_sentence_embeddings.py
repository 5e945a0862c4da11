"""The objective on sentence embeddings, against plain loops over rows and torch's own losses."""

import pytest
import torch
import torch.nn.functional as F
from naive_relations import pool as naive_pool
from tiny_objectives import make, models, run

from distil_nlp.errors import ModelError, RecipeError
from distil_nlp.objectives import SentenceEmbeddings


def embeddings(model, made, pooling):
    with torch.no_grad():
        states = model.base_model(made["input_ids"], made["attention_mask"]).last_hidden_state
    return torch.from_numpy(naive_pool(states.numpy(), made["attention_mask"].bool().numpy(), pooling))


@pytest.mark.parametrize("pooling", ["mean", "cls", "last"])
@pytest.mark.parametrize("normalize", [False, True])
def test_mse_is_mse_loss_of_the_pooled_states(pooling, normalize):
    student, teacher = models()
    made = make()
    ours, theirs = (embeddings(model, made, pooling) for model in (student, teacher))
    if normalize:
        ours, theirs = F.normalize(ours), F.normalize(theirs)
    got = run(SentenceEmbeddings(pooling=pooling, normalize=normalize), student, teacher, made)
    torch.testing.assert_close(got, F.mse_loss(ours, theirs).to(got), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("normalize", [False, True])
def test_cosine_is_one_less_the_mean_cosine(normalize):
    student, teacher = models()
    made = make()
    ours, theirs = (embeddings(model, made, "mean") for model in (student, teacher))
    got = run(SentenceEmbeddings(loss="cosine", normalize=normalize), student, teacher, made)
    torch.testing.assert_close(got, 1 - F.cosine_similarity(ours, theirs).mean().to(got), rtol=1e-5, atol=1e-6)


def test_a_narrower_student_is_projected_and_then_normalised():
    student, teacher = models(width=16)
    made = make()
    objective = SentenceEmbeddings(normalize=True)
    got = run(objective, student, teacher, made)
    ours, theirs = (embeddings(model, made, "mean") for model in (student, teacher))
    linear = objective.projection.layers[0]
    assert (linear.in_features, linear.out_features) == (16, 32)
    projected = ours.float() @ linear.weight.T + linear.bias
    torch.testing.assert_close(got, F.mse_loss(F.normalize(projected), F.normalize(theirs.float())))
    with pytest.raises(ModelError, match="projection: none"):
        run(SentenceEmbeddings(projection="none"), student, teacher, made)


def test_a_row_of_padding_alone_does_not_count():
    student, teacher = models()
    made = make()
    made["attention_mask"][3] = 0
    alone = run(SentenceEmbeddings(), student, teacher, {key: value[:3] for key, value in made.items()})
    assert SentenceEmbeddings().count(made) == 3
    torch.testing.assert_close(run(SentenceEmbeddings(), student, teacher, made), alone)


@pytest.mark.parametrize(("key", "value", "near"), [("pooling", "means", "mean"), ("loss", "cosin", "cosine")])
def test_unknown_names_are_refused_with_the_near_match(key, value, near):
    with pytest.raises(RecipeError, match=rf"sentence_embeddings\.{key} is '{value}'\.\s+Did you mean '{near}'"):
        SentenceEmbeddings(**{key: value})
