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
import time
from itertools import product
from pathlib import Path
from typing import Any

import torch
from datasets import disable_progress_bars
from objectives_methods import DATASETS, TASK, Method, methods, recipe_of
from pairing import packed
from transformers import set_seed
from transformers.utils import logging

from distil_nlp.build import Assembly
from distil_nlp.evaluation.metrics import METRICS
from distil_nlp.teachers import StoredTeacher

RESULTS = Path(__file__).parent / "results" / "objectives.jsonl"


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
