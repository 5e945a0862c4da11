"""How much of a teacher its students keep on each task, against the same students without a teacher.

    python benchmarks/tasks_study.py --data FOLDER --seeds 1 2 3
    python benchmarks/tasks_study.py --data FOLDER --recipes my_task.yaml
    python benchmarks/tasks_tables.py

Each task is a recipe, those in benchmarks/recipes unless named, whose `task.dataset` is a folder in FOLDER with train,
validation and test files. It is run with its own student and, if that is an encoder, with others. A seed is that of a
whole run, teacher included; students of one seed share the teacher. One line for each student goes to
results/tasks.jsonl, beside this file; a study that was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import torch
from datasets import disable_progress_bars
from pairing import packed
from transformers.utils import logging

from distil_nlp.evaluation.metrics import METRICS
from distil_nlp.recipe import Recipe
from distil_nlp.run import Run
from distil_nlp.run.stages import run_stage

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "tasks.jsonl"
STUDENTS: dict[str, dict[str, Any]] = {
    "as the recipe says": {},  # half of the teacher's layers
    "2 layers": {"num_layers": 2},
    "half the width, own vocabulary": {
        "num_layers": None,
        "hidden_size": 192,
        "num_heads": 6,
        "intermediate_size": 768,
        "vocabulary": "task",
    },
}


def recipe_of(file: Path, data: Path, student: str, seed: int) -> Recipe:
    """The recipe of a task for a student, its data under a folder."""
    plain = Recipe.load(file)
    task = plain.task
    values = {"seed": seed, "task.dataset": str(data / task.dataset)}
    values |= {f"student.{key}": value for key, value in STUDENTS[student].items()}
    if not torch.cuda.is_available():  # or else transformers refuses bf16
        trained = ["training"] if plain.teacher.fine_tune is None else ["training", "teacher.fine_tune"]
        values |= {f"{section}.use_cpu": True for section in trained}
    if task.unlabelled is not None and (data / task.unlabelled.dataset).exists():
        values["task.unlabelled.dataset"] = str(data / task.unlabelled.dataset)
    return Recipe.load(file, [f"{key}={json.dumps(value)}" for key, value in values.items()])


def students_of(recipe: Recipe) -> list[str]:
    """Those that a task can have: a decoder its own, and embeddings as wide as the teacher's."""
    return list(STUDENTS)[: 1 if recipe.task.decoding else 2 if recipe.task.name == "feature-extraction" else None]


def results_of(run: Run) -> dict[str, Any]:
    """Runs what is not done yet, and gathers every artefact's headline metric and size, and what rows add to a gain."""
    run.folder.describe(run.recipe)
    decoder = run.recipe.task.decoding
    stages = ["teach", "distill", *(["control"] if run.controls else []), "evaluate", "export"]
    stages += ["bench"] if decoder else []
    for stage in stages:
        if not run.folder.has(stage):
            run_stage(run, stage)
    artefacts = {
        name: found for stage in ("evaluate", "export") for name, found in run.folder.result(stage)["artefacts"].items()
    }
    metric = run.parts.metric_names[0]
    figures = {}
    for name in ("student", *run.controls):
        totals = METRICS[metric]().row_totals(run.references(name), run.predictions(name))
        figures[name] = packed(totals.figures)
    values = {name: found["metrics"][metric] for name, found in artefacts.items()}
    if decoder or not run.controls:
        values["before"] = before(run)
    return {
        "metric": metric,
        "values": values,
        "size_mb": {name: round(found["size_mb"], 2) for name, found in artefacts.items()},
        "figures": figures,
        **({"tokens_per_second": tokens_per_second(run)} if decoder else {}),
    }


def before(run: Run) -> float:
    """What the student's layers are worth before they learn anything, where the task needs no new head."""
    student = run.parts.student(run.parts.load_saved(run.folder.model("teacher")))
    return run.parts.score(student, "test")[run.parts.metric_names[0]]


def tokens_per_second(run: Run) -> dict[str, float]:
    """How fast artefacts write."""
    return {name: rows[0]["tokens_per_second"] for name, rows in run.folder.result("bench")["writing"].items()}


def load() -> list[dict[str, Any]]:
    """All results there are."""
    return [json.loads(text) for text in RESULTS.read_text(encoding="utf-8").splitlines()] if RESULTS.exists() else []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--recipes", nargs="+", type=Path, default=sorted((HERE / "recipes").glob("*.yaml")))
    parser.add_argument("--students", nargs="+", choices=list(STUDENTS), default=list(STUDENTS), metavar="STUDENT")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--work", type=Path, default=Path("runs/tasks_study"), help="where runs are kept")
    options = parser.parse_args()
    logging.set_verbosity_error()
    disable_progress_bars()
    RESULTS.parent.mkdir(exist_ok=True)
    done = {(entry["task"], entry["student"], entry["seed"]) for entry in load()}
    for file in options.recipes:
        for seed in options.seeds:
            folder = options.work / f"{file.stem}_{seed}"
            for student in filter(options.students.__contains__, students_of(Recipe.load(file))):
                key = {"task": file.stem, "student": student, "seed": seed}
                if tuple(key.values()) in done:
                    continue
                entry = {**key, **results_of(Run(recipe_of(file, options.data, student, seed), folder))}
                with RESULTS.open("a", encoding="utf-8") as stream:
                    stream.write(json.dumps(entry) + "\n")
                print(key, {name: round(value, 4) for name, value in entry["values"].items()}, flush=True)
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
