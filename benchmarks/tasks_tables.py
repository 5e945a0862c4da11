"""A line for each task and student, from what benchmarks/tasks_study.py has found.

    python benchmarks/tasks_tables.py

The mean over seeds of teacher, control, student and the student's int8 export, what the student keeps of its teacher,
and its gain over the control with a 95 % interval from a paired bootstrap over test rows and, with them, over seeds;
where the task needs no new head, also what the student's layers are worth untrained.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from typing import Any

from pairing import interval
from tasks_study import STUDENTS, load

from distil_nlp.evaluation.metrics import higher_is_better, in_points

COLUMNS = ("teacher", "before", "control_same_start", "student", "onnx_int8")
WRITERS = ("teacher", "student", "onnx_int8")


def line(task: str, student: str, runs: list[dict[str, Any]]) -> str:
    """The row of a task's student."""
    metric = runs[0]["metric"]
    means = {
        name: statistics.mean(run["values"][name] for run in runs) for name in COLUMNS if name in runs[0]["values"]
    }
    kept = means["student"] / means["teacher"]
    cells = [figure(means[name]) if name in means else "" for name in COLUMNS]
    cells += [f"{kept if higher_is_better(metric) else 1 / kept:.1%}", gain(metric, means, runs)]
    sizes = runs[0]["size_mb"]
    cells.append(f"{sizes['teacher']:.0f} to {sizes['onnx_int8']:.1f}")
    return f"| {' | '.join([f'{task} ({metric})', student, str(len(runs)), *cells])} |"


def figure(value: float) -> str:
    """Three decimals, of what is below a hundred."""
    return f"{value:.3f}" if value < 100 else f"{value:,.0f}"


def gain(metric: str, means: dict[str, float], runs: list[dict[str, Any]]) -> str:
    """The student's gain over its control and whether it is beyond noise; nothing where there is no control."""
    if "control_same_start" not in means:
        return ""
    sides = ([run["figures"][name] for run in runs] for name in ("student", "control_same_start"))
    low, high = interval(metric, *sides)
    scale = 100 if in_points(metric) else 1
    difference = means["student"] - means["control_same_start"]
    better = "" if higher_is_better(metric) else ", lower is better"
    noise = "" if low > 0 or high < 0 else ", within noise"
    return f"{scale * difference:+.1f} [{scale * low:+.1f}, {scale * high:+.1f}]{better}{noise}"


def decoder(task: str, runs: list[dict[str, Any]]) -> str:
    """The row of a decoder's student in the table of how fast it writes."""
    speeds = [statistics.median(run["tokens_per_second"][name] for run in runs) for name in WRITERS]
    return f"| {task} | {' | '.join(f'{speed:.0f}' for speed in speeds)} |"


def main() -> None:
    groups: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for entry in sorted(
        load(), key=lambda entry: (entry["task"], list(STUDENTS).index(entry["student"]), entry["seed"])
    ):
        groups[entry["task"], entry["student"]].append(entry)
    print("| task | student | seeds | teacher | untrained | control | student | int8 | kept | gain over control | MB |")
    print("|---|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|")
    for (task, student), runs in groups.items():
        print(line(task, student, runs))
    decoders = {task: runs for (task, _), runs in groups.items() if "tokens_per_second" in runs[0]}
    if decoders:
        print("\n| tokens per second | teacher | student | int8 |")
        print("|---|---:|---:|---:|")
    for task, runs in decoders.items():
        print(decoder(task, runs))


if __name__ == "__main__":
    main()
