"""The tables of docs/objectives.md, from what benchmarks/objectives_study.py has found.

    python benchmarks/objectives_tables.py

The metric on the test rows, the mean over seeds, and the gain over the better control with its 95 % interval, from a
paired bootstrap over test rows and, with them, over seeds. The better control of a table is the one with the highest
mean on the very test rows, of all controls, whatever their start and length: no method is compared with less.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from typing import Any

from objectives_study import DATASETS, load
from pairing import interval

Runs = list[dict[str, Any]]


def table(by_method: dict[str, Runs], teacher: float, metric: str) -> list[str]:
    """The lines of one data set and depth."""
    means = {name: statistics.mean(entry["test"] for entry in runs) for name, runs in by_method.items()}
    best = max((name for name in means if name.startswith("no teacher")), key=lambda name: means[name])
    gap = teacher - means[best]
    lines = ["| method | seeds | validation | test | gain over the better control | of the gap |"]
    lines.append("|---|---:|---:|---:|---:|---:|")
    for name in sorted(means, key=lambda name: -means[name]):
        validation = statistics.mean(entry["validation"] for entry in by_method[name])
        cells = [name, str(len(by_method[name])), f"{validation:.3f}", f"{means[name]:.3f}"]
        if name == best:
            cells += ["the better control", ""]
        else:
            low, high = interval(metric, *([entry["figures"] for entry in by_method[m]] for m in (name, best)))
            gain = means[name] - means[best]
            cells += [f"{100 * gain:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]", f"{gain / gap:+.0%}"]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def main() -> None:
    groups: dict[tuple[str, int], dict[str, Runs]] = defaultdict(lambda: defaultdict(list))
    teachers = {}
    for entry in load():
        if entry["method"] == "teacher":
            teachers[entry["dataset"]] = entry["test"]
        else:
            groups[entry["dataset"], entry["layers"]][entry["method"]].append(entry)
    for (dataset, layers), by_method in sorted(groups.items()):
        if any(name.startswith("no teacher") for name in by_method):
            metric = DATASETS[dataset]["metric"]
            print(f"\n{dataset}, {layers} of 6 layers; the teacher has {teachers[dataset]:.3f} ({metric})\n")
            print("\n".join(table(by_method, teachers[dataset], metric)))


if __name__ == "__main__":
    main()
