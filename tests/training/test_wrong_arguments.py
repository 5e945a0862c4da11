"""What a first script gets wrong: said before anything is trained."""

import pytest
import torch
from tiny_models import batch, tiny_model
from transformers import TrainingArguments

from distil_nlp.errors import DataError, ModelError
from distil_nlp.objectives import HiddenStates, LogitsKL, TaskLoss
from distil_nlp.signals import Needs
from distil_nlp.students import build_student
from distil_nlp.teachers import EnsembleTeacher, ModelTeacher
from distil_nlp.training import DistillationTrainer

ROWS = [{"input_ids": [5, 6, 7], "attention_mask": [1, 1, 1], "labels": label} for label in (0, 1, 2)]


def trainer(folder, *, model=None, teacher=None, objectives=None, rows=ROWS):
    return DistillationTrainer(
        model=tiny_model(seed=1) if model is None else model,
        teacher=tiny_model() if teacher is None else teacher,
        objectives=[LogitsKL()] if objectives is None else objectives,
        args=TrainingArguments(str(folder), max_steps=1, report_to="none", save_strategy="no", disable_tqdm=True),
        train_dataset=rows,
    )


@pytest.mark.parametrize(
    ("objectives", "found"),
    [
        (["logits_kl"], "'logits_kl'"),
        ("logits_kl", "'logits_kl'"),
        ({"logits_kl": {"temperature": 2.0}}, "'logits_kl'"),
        ([LogitsKL], "LogitsKL"),
        (LogitsKL, "LogitsKL"),
        (LogitsKL(), "LogitsKL"),
        ([TaskLoss(), None], "None"),
    ],
)
def test_objectives_are_a_list_of_objects(tmp_path, objectives, found):
    with pytest.raises(ModelError, match=r"(?s)a list of objects.*objectives=\[TaskLoss") as error:
        trainer(tmp_path, objectives=objectives)
    assert found in error.value.found


def test_the_second_place_is_that_of_the_arguments():
    with pytest.raises(ModelError, match=r"type BertForSequenceClassification.*\n?.*Give teacher=\.\.\."):
        DistillationTrainer(tiny_model(seed=1), tiny_model())


def test_a_model_is_loaded_first(tmp_path):
    with pytest.raises(ModelError, match=r"(?s)model that is loaded.*'bert-base-uncased'"):
        trainer(tmp_path, model="bert-base-uncased")
    with pytest.raises(ModelError, match="type ModelTeacher"):
        trainer(tmp_path, model=ModelTeacher(tiny_model()))
    for given, found in (("bert-base-uncased", "'bert-base-uncased'"), (ModelTeacher(tiny_model()), "ModelTeacher")):
        with pytest.raises(ModelError, match=f"(?s)a model that is loaded.*{found}.*from_pretrained"):
            build_student(given, num_layers=2)


@pytest.mark.parametrize(
    "teaching", [lambda model: model, ModelTeacher, lambda model: EnsembleTeacher([tiny_model(), model])]
)
def test_two_vocabularies_are_refused(tmp_path, teaching):
    with pytest.raises(ModelError, match=r"(?s)one tokenizer.*of 64 tokens, the teacher one of 100"):
        trainer(tmp_path, teacher=teaching(tiny_model(vocab_size=100)), objectives=[HiddenStates()])


def test_some_rows_of_padding_are_not(tmp_path):
    trainer(tmp_path, teacher=tiny_model(vocab_size=65), objectives=[HiddenStates()]).train()


def test_a_teacher_of_ones_own_may_read_other_tokens(tmp_path):
    class Own:  # its rows have columns for it
        def __init__(self):
            self.model = tiny_model(vocab_size=200)
            self.shape, self.input_names = ModelTeacher(self.model).shape, frozenset({"teacher_ids"})

        def prepare(self, needs, device): ...

        def __call__(self, batch, needs): ...

    trainer(tmp_path, teacher=Own())


def test_rows_are_tokenized_first(tmp_path):
    untokenized = [{"text": "good", "labels": torch.tensor(1)}] * 3
    with pytest.raises(DataError, match=r"(?s)no input_ids, only labels.*Tokenize"):
        trainer(tmp_path, rows=untokenized).train()


NAMES = ("negative", "neutral", "positive")


def named(names, seed=0):
    return tiny_model(seed=seed, id2label=dict(enumerate(names)), label2id={name: n for n, name in enumerate(names)})


def test_a_teacher_with_the_labels_in_another_order_is_refused(tmp_path):
    student, teacher = named(NAMES, seed=1), named(NAMES[::-1])
    with pytest.raises(ModelError, match=r"\(negative, neutral, positive\), the teacher's \(positive, neutral, neg"):
        trainer(tmp_path, model=student, teacher=teacher)
    trainer(tmp_path, model=student, teacher=teacher, objectives=[HiddenStates()])
    trainer(tmp_path, model=student, teacher=named([name.title() for name in NAMES]))
    trainer(tmp_path, model=student, teacher=tiny_model())  # whose labels have no names
    ordered = trainer(tmp_path, model=student, teacher=EnsembleTeacher([teacher], labels=NAMES))
    made = batch()
    signals = ordered.teacher(made, Needs(logits=True))
    with torch.no_grad():
        logits = teacher(input_ids=made["input_ids"], attention_mask=made["attention_mask"]).logits
    torch.testing.assert_close(signals.logits.softmax(-1), logits.flip(1).softmax(-1))


def test_a_teacher_with_adapters_is_to_be_merged(tmp_path):
    peft = pytest.importorskip("peft")
    adapted = peft.get_peft_model(tiny_model(), peft.LoraConfig(r=2, target_modules=["query"]))
    with pytest.raises(ModelError, match=r"merge_and_unload\(\)"):
        trainer(tmp_path, teacher=adapted)


def test_a_module_that_is_no_model_of_transformers_is_refused(tmp_path):
    with pytest.raises(ModelError, match=r"(?s)a transformers model.*type Linear"):
        trainer(tmp_path, model=torch.nn.Linear(2, 2))
