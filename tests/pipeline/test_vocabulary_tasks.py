"""Students with a vocabulary of their own, of every other task, and their scores once more by transformers alone."""

from __future__ import annotations

import json
import math
import random
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from test_tasks import TASKS, asked_row, tagged_row
from tiny_language import CHAT, decoder_tokenizer, texts
from tiny_models import tiny_model
from tiny_run import TRAINING, WORDS, build_tokenizer
from tiny_seq2seq import tiny_seq2seq
from tiny_tokenizers import tiny_tokenizer
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForQuestionAnswering,
    AutoModelForSeq2SeqLM,
    AutoModelForTokenClassification,
    AutoTokenizer,
    BertConfig,
    BertForMaskedLM,
)

from distil_nlp.build import Assembly
from distil_nlp.recipe import Recipe
from distil_nlp.run import Run
from distil_nlp.run.folder import RunFolder
from distil_nlp.run.stages import run_stage

UNSEEN = ("rare1", "rare2")  # words that test rows have and training rows do not


def write(folder: Path, **sections: Any) -> Path:
    recipe = {
        "seed": 7,
        "student": {"num_layers": 2, "vocabulary": "task"},
        "training": {"max_steps": 2, **TRAINING},
        "evaluation": {"batch_size": 16, "bootstrap_samples": 50},
        "bench": {"sequence_length": 8, "new_tokens": 4},
        **sections,
    }
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(recipe), encoding="utf-8")
    return path


def write_rows(folder: Path, **splits: list[dict[str, Any]]) -> str:
    (folder / "rows").mkdir()
    for name, rows in splits.items():
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / "rows" / f"{name}.jsonl").write_text(lines, encoding="utf-8")
    return str(folder / "rows")


def save(folder: Path, model: Any, tokenizer: Any) -> str:
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    return str(folder / "model")


def with_rare_word(row: dict[str, Any], dice: random.Random) -> dict[str, Any]:
    if "tokens" in row:
        return {"tokens": [*row["tokens"], dice.choice(UNSEEN)], "tags": [*row["tags"], "O"]}
    return {**row, "context": f"{row['context']} {dice.choice(UNSEEN)}"}


def without_articles(answer: Any) -> Any:
    """As SQuAD compares answers; tags as they are."""
    return re.sub(r"\b(a|the) ", "", answer) if isinstance(answer, str) else answer


@pytest.mark.parametrize(
    ("name", "make", "auto_class"),
    [
        ("token-classification", tagged_row, AutoModelForTokenClassification),
        ("question-answering", asked_row, AutoModelForQuestionAnswering),
    ],
)
def test_teacher_and_student_are_scored_by_tokens_of_their_own(
    name: str, make: Any, auto_class: Any, tmp_path: Path
) -> None:
    told, dice = TASKS[name], random.Random(3)
    rows = {split: [make(dice) for _ in range(count)] for split, count in (("train", 160), ("validation", 40))}
    test = [with_rare_word(make(dice), dice) for _ in range(40)]
    words = [*WORDS[:4], *UNSEEN, *(f"unused{number}" for number in range(9)), *WORDS[4:]]
    sizes = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 48}
    config = BertConfig(vocab_size=len(words), max_position_embeddings=32, initializer_range=0.2, **sizes)
    recipe = write(
        tmp_path,
        task={**told["task"], "dataset": write_rows(tmp_path, **rows, test=test), "max_length": 24},
        teacher={
            "model": save(tmp_path, BertForMaskedLM(config), build_tokenizer(words)),
            "fine_tune": {**TRAINING, "max_steps": 50},
        },
        objectives=told["objectives"],
    )
    run = Run(Recipe.load(recipe), tmp_path / "run", lambda line: None)
    for stage in ("teach", "distill", "evaluate"):
        run_stage(run, stage)
    assert len(run.parts_of("student").tokenizer) == len(WORDS)
    examples = run.parts.data.splits["test"]
    for model_name, unknown in (("teacher", False), ("student", True)):
        model = auto_class.from_pretrained(tmp_path / "run" / model_name).eval()
        tokenizer = AutoTokenizer.from_pretrained(tmp_path / "run" / model_name)
        assert (tokenizer.tokenize(UNSEEN[0]) == ["[UNK]"]) == unknown
        given = [without_articles(told["predict"](model, tokenizer, row)) for row in examples]
        truth = [told["truth"](row, told["labels"]) for row in examples]
        metrics = run.folder.result("evaluate")["artefacts"][model_name]["metrics"]
        assert metrics[told["metric"]] == pytest.approx(told["score"](truth, given), abs=1e-5)


def distilled(recipe: Path, folder: Path) -> tuple[Assembly, Any, Any]:
    """Parts, teacher and student after two steps, which is saved."""
    whole = Assembly(Recipe.load(recipe))
    [teacher] = map(whole.teacher, whole.recipe.teachers.values())
    parts = whole.for_student(teacher, None)
    guide = parts.trimmed(teacher)
    student = parts.student(guide)
    trainer = parts.trainer(
        student,
        teacher=guide,
        arguments=parts.recipe.training,
        output_dir=folder / "checkpoints",
        rows=parts.student_rows(guide, None, folder).rows,
        **parts.loss(student, guide),
    )
    trainer.train()
    RunFolder(folder).save_model("student", student, parts.tokenizer, parts.task.companions(student))
    return parts, teacher, student


def language(kind: str, folder: Path, **task: Any) -> Path:
    rows = {split: texts(count, seed=count) for split, count in (("train", 60), ("validation", 20))}
    rows["test"] = [f"{text} unbelievably {word}" for text, word in zip(texts(10), ["café", "zzz"] * 5, strict=True)]
    if kind == "fill-mask":
        tokenizer: Any = tiny_tokenizer("wordpiece")
        model = tiny_model("bert", "masked", vocab_size=len(tokenizer), initializer_range=0.3)
    else:
        tokenizer = decoder_tokenizer(CHAT)
        ids = {"eos_token_id": 0, "pad_token_id": 0, "bos_token_id": None}
        model = tiny_model("llama", "next_token", vocab_size=len(tokenizer), initializer_range=0.3, **ids)
    column = {"messages": lambda text: [{"role": r, "content": c} for r, c in (("user", "and?"), ("assistant", text))]}
    make = column.get("messages" if "messages" in task else "", lambda text: text)
    told = {split: [{"said": make(text)} for text in given] for split, given in rows.items()}
    data = write_rows(folder, **told)
    return write(
        folder,
        task={"name": kind, "dataset": data, "max_length": 48, **task},
        teacher={"model": save(folder, model, tokenizer)},
    )


def test_a_masked_model_and_its_teacher_are_asked_for_the_same_tokens(tmp_path: Path) -> None:
    parts, _, student = distilled(language("fill-mask", tmp_path, text="said"), tmp_path / "run")
    model = AutoModelForMaskedLM.from_pretrained(tmp_path / "run" / "student").eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "run" / "student")
    assert model.config.vocab_size == len(tokenizer) < len(parts.whole.tokenizer)
    hidden = {}
    for each in (parts, parts.whole):
        collate, rows = each.task.collator(each.tokenizer, train=False), each.rows["validation"]
        hidden[each] = [collate([row])["labels"][0] != -100 for row in rows]
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(*hidden.values(), strict=True))
    collate, costs = parts.task.collator(tokenizer, train=False), []
    for row in parts.task.tokenize(parts.data.splits["test"], tokenizer):
        batch = collate([row])
        with torch.no_grad():
            odds = torch.log_softmax(model(batch["input_ids"]).logits[0], -1)
        costs += [-float(odds[place, label]) for place, label in enumerate(batch["labels"][0]) if label != -100]
    assert parts.score(student, "test")["perplexity"] == pytest.approx(math.exp(np.mean(costs)), rel=1e-4)


@pytest.mark.parametrize("column", ["text", "messages"])
def test_a_causal_model_writes_with_its_own_tokens(column: str, tmp_path: Path) -> None:
    parts, teacher, student = distilled(language("text-generation", tmp_path, **{column: "said"}), tmp_path / "run")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "student").eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "run" / "student")
    assert model.config.vocab_size == len(tokenizer) < teacher.config.vocab_size
    ends = model.generation_config.eos_token_id  # a list in early transformers
    assert ends in (tokenizer.eos_token_id, [tokenizer.eos_token_id])
    assert model.config.pad_token_id == tokenizer.eos_token_id
    costs = []
    for row in parts.data.splits["test"]:
        if column == "messages":
            ids = tokenizer.apply_chat_template(row["messages"], tokenize=True)["input_ids"]
            prompt = tokenizer.apply_chat_template(row["messages"][:1], tokenize=True, add_generation_prompt=True)
            said = range(len(prompt["input_ids"]), len(ids) - 1)  # without the line's end after its turn
        else:
            ids = [*tokenizer(row["text"])["input_ids"], tokenizer.eos_token_id]
            said = range(1, len(ids))
        with torch.no_grad():
            odds = torch.log_softmax(model(torch.tensor([ids])).logits[0], -1)
        costs += [-float(odds[place - 1, ids[place]]) for place in said if place < 48]
    assert parts.score(student, "test")["perplexity"] == pytest.approx(math.exp(np.mean(costs)), rel=1e-4)
    written = model.generate(**tokenizer("the dog", return_tensors="pt"), max_new_tokens=5, min_new_tokens=5)
    assert written.max() < len(tokenizer)


def test_sentences_are_compared_with_those_of_the_whole_teacher(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer("wordpiece")
    backbone = tiny_model("bert", "masked", vocab_size=len(tokenizer), initializer_range=0.3).bert
    test = [f"{text[:20]} unbelievably widest" for text in texts(12, seed=2)]
    rows = {"train": texts(60, seed=1), "validation": texts(12, seed=3), "test": test}
    data = write_rows(tmp_path, **{name: [{"text": text} for text in each] for name, each in rows.items()})
    task = {"name": "feature-extraction", "dataset": data, "max_length": 48}
    recipe = write(tmp_path, task=task, teacher={"model": save(tmp_path, backbone, tokenizer)})
    parts, _, student = distilled(recipe, tmp_path / "run")
    models = [
        (AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder))
        for folder in (tmp_path / "model", tmp_path / "run" / "student")
    ]
    assert len(models[1][1]) < len(models[0][1])
    cosines = []
    for text in test:
        with torch.no_grad():
            one, other = (m(**t(text, return_tensors="pt")).last_hidden_state[0].mean(0) for m, t in models)
        cosines.append(float(torch.cosine_similarity(one, other, dim=0)))
    assert parts.score(student, "test")["cosine_to_teacher"] == pytest.approx(np.mean(cosines), abs=1e-5)


@pytest.fixture
def writing(tmp_path: Path) -> tuple[Assembly, Any, Path]:
    tokenizer = tiny_tokenizer("wordpiece")
    model = tiny_seq2seq("t5", vocab_size=len(tokenizer), num_layers=3, num_decoder_layers=3)
    pairs = [{"source": text, "target": text.split(" and ")[0]} for text in texts(48, seed=4)]
    recipe = write(
        tmp_path,
        task={
            "name": "text2text-generation",
            "dataset": write_rows(tmp_path, train=pairs[:32], validation=pairs[32:40], test=pairs[40:]),
            "prefix": "the longest film : ",
            "max_length": 32,
            "max_target_length": 8,
            "targets": "teacher",
            "target_beams": 1,
        },
        teacher={"model": save(tmp_path, model, tokenizer)},
        student={"num_layers": 2, "layers": "cka", "decoder_layers": 1, "vocabulary": "task"},
    )
    parts, _, student = distilled(recipe, tmp_path / "run")
    return parts, student, tmp_path / "run"


def test_an_encoder_decoder_with_a_vocabulary_and_a_decoder_of_its_own(writing: tuple[Assembly, Any, Path]) -> None:
    parts, student, folder = writing
    model = AutoModelForSeq2SeqLM.from_pretrained(folder / "student").eval()
    tokenizer = AutoTokenizer.from_pretrained(folder / "student")
    assert (model.config.num_layers, model.config.num_decoder_layers) == (2, 1)
    assert model.config.vocab_size == len(tokenizer) < len(parts.whole.tokenizer)
    assert set(parts.whole.tokenizer.tokenize("the longest film : ")) <= set(tokenizer.get_vocab())
    outputs = parts.outputs(student, "test")
    written = parts.predictions(outputs, "test")
    for row, text in zip(parts.data.splits["test"], written, strict=True):
        ids = tokenizer(f"the longest film : {row['source']}", truncation=True, max_length=32, return_tensors="pt")
        made = model.generate(ids.input_ids, max_new_tokens=8, do_sample=False)[0]
        assert tokenizer.decode(made, skip_special_tokens=True).strip() == text
    lines = (folder / "teacher_targets.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(lines) >= 32
