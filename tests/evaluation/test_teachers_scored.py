"""What several teachers, or one with labels of its own, give for padded batches; and how ensembles are timed."""

import numpy as np
import pytest
import torch
from tiny_models import batch, tiny_model

from distil_nlp.build.teaching import by_data_labels, knows_all
from distil_nlp.errors import ModelError
from distil_nlp.evaluation.artefacts import PyTorchArtefact
from distil_nlp.evaluation.efficiency import LatencyProtocol, latency_batch, latency_table
from distil_nlp.evaluation.quality import teacher_forward
from distil_nlp.evaluation.writing_speed import writing_table
from distil_nlp.teachers import EnsembleTeacher


def arrays(made):
    return {name: value.numpy() for name, value in made.items()}


def named(*labels, seed=0):
    id2label = dict(enumerate(labels))
    label2id = {label: number for number, label in id2label.items()}
    return tiny_model("bert", seed=seed, num_labels=len(labels), id2label=id2label, label2id=label2id)


def test_spans_of_an_ensemble_are_least_at_padding():
    models, made = [tiny_model("bert", "span", seed=seed, initializer_range=0.3) for seed in (1, 2)], batch("span")
    got = teacher_forward(EnsembleTeacher(models))(arrays(made))
    with torch.no_grad():
        outputs = [model(input_ids=made["input_ids"], attention_mask=made["attention_mask"]) for model in models]
    for row, length in enumerate((12, 7, 9, 3)):
        for end in ("start_logits", "end_logits"):
            mean = sum(output[end][row, :length].double().softmax(-1) for output in outputs) / 2
            np.testing.assert_allclose(np.exp(got[end][row, :length]), mean, rtol=1e-4, atol=1e-6)
            assert (got[end][row, length:] < got[end][row, :length].min(initial=0) - 1e6).all()


@pytest.mark.parametrize("item", ["example", "token", "next_token"])
def test_logits_of_an_ensemble(item):
    models, made = [tiny_model("gpt2", item, seed=seed) for seed in (1, 2)], batch(item)
    got = teacher_forward(EnsembleTeacher(models))(arrays(made))["logits"]
    with torch.no_grad():
        inputs = {name: made[name] for name in ("input_ids", "attention_mask")}
        mean = sum(model(**inputs).logits.double().softmax(-1) for model in models) / 2
    np.testing.assert_allclose(np.exp(got), mean, rtol=1e-4, atol=1e-6)


def test_logits_stand_where_the_data_has_their_labels():
    model, seen = named("glad", "Sad"), np.array([[1.0, 2.0], [3.0, 4.0]], dtype=np.float32)

    def forward(made):
        return {"logits": seen, "other": made["input_ids"]}

    placed = by_data_labels(forward, model, ["sad", "mad", "glad"])({"input_ids": 7})
    np.testing.assert_array_equal(placed["logits"], [[2, -np.inf, 1], [4, -np.inf, 3]])
    assert placed["other"] == 7
    assert by_data_labels(forward, model, ["Glad", "sad"]) is forward
    assert by_data_labels(forward, model, None) is forward
    assert knows_all(model, ["sad", "glad"])
    assert not knows_all(model, ["sad", "mad", "glad"])
    with pytest.raises(ModelError, match="knows a label 'Sad'"):
        by_data_labels(forward, model, ["mad", "glad"])


def test_the_members_of_an_ensemble_answer_one_after_another_and_do_not_write():
    ran, models = [], [tiny_model("llama", "next_token", seed=seed) for seed in (1, 2)]
    for number, model in enumerate(models):
        model.register_forward_hook(lambda *_, number=number: ran.append(number))
    several, one = PyTorchArtefact("teacher", *models), PyTorchArtefact("student", models[1])
    made = latency_batch(2, sequence_length=8, vocab_size=64)
    several.ready(made, 1)()
    assert ran == [0, 1]
    protocol = LatencyProtocol(batch_sizes=(1,), threads=(1,), sequence_length=8, repeats=1)

    def batch_of(size):
        return latency_batch(size, sequence_length=8, vocab_size=64)

    assert set(latency_table([several, one], batch_of, protocol)) == {"teacher", "student"}
    assert set(writing_table([several, one], batch_of, protocol, new_tokens=2)) == {"student"}
