"""The tables of docs/benchmarks.md, from what benchmarks/objectives_study.py has found.

    python benchmarks/objectives_tables.py

The metric on the test rows, the mean over seeds, and the gain over the better control with its 95 % interval, from a
paired bootstrap over test rows and, with them, over seeds. The better control of a table is the one with the highest
mean on the very test rows, of all controls, whatever their start and length: no method is compared with less.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

from objectives_methods import DATASETS, methods
from objectives_study import load
from pairing import interval

SEEDS = 3  # of a method in the table of all data sets


@dataclass
class Study:
    """All students of a data set and depth, by method, and what their teacher has on the test rows."""

    dataset: str
    layers: int
    teacher: float = float("nan")
    runs: dict[str, list[dict[str, Any]]] = field(default_factory=lambda: defaultdict(list))

    @property
    def metric(self) -> str:
        return str(DATASETS[self.dataset]["metric"])

    @property
    def means(self) -> dict[str, float]:
        """Of each method, the best first."""
        means = {name: statistics.mean(entry["test"] for entry in runs) for name, runs in self.runs.items()}
        return dict(sorted(means.items(), key=lambda item: -item[1]))

    @property
    def control(self) -> str | None:
        """The best way without a teacher."""
        return next((name for name in self.means if name.startswith("no teacher")), None)

    def gain(self, name: str) -> tuple[float, float, float]:
        """Over the better control, in points, and its interval."""
        ours, theirs = ([entry["figures"] for entry in self.runs[each]] for each in (name, self.control))
        low, high = interval(self.metric, ours, theirs)
        return 100 * (self.means[name] - self.means[self.control]), 100 * low, 100 * high

    def table(self) -> list[str]:
        """A line for each method."""
        lines = ["| method | seeds | validation | test | gain over the better control | of the gap |"]
        lines.append("|---|---:|---:|---:|---:|---:|")
        for name, mean in self.means.items():
            validation = statistics.mean(entry["validation"] for entry in self.runs[name])
            cells = [name, str(len(self.runs[name])), f"{validation:.3f}", f"{mean:.3f}"]
            if name == self.control:
                cells += ["the better control", ""]
            else:
                gain, low, high = self.gain(name)
                gap = 100 * (self.teacher - self.means[self.control])
                cells += [f"{gain:+.1f} [{low:+.1f}, {high:+.1f}]", f"{gain / gap:+.0%}"]
            lines.append(f"| {' | '.join(cells)} |")
        return lines


def studies() -> list[Study]:
    """All data sets and depths of which there is a control."""
    found: dict[tuple[str, int], Study] = {}
    teachers = {}
    for entry in load():
        if entry["method"] == "teacher":
            teachers[entry["dataset"]] = entry["test"]
        else:
            key = entry["dataset"], entry["layers"]
            found.setdefault(key, Study(*key)).runs[entry["method"]].append(entry)
    for study in found.values():
        study.teacher = teachers[study.dataset]
    return [study for _, study in sorted(found.items()) if study.control is not None]


def summary(all_of_them: list[Study]) -> list[str]:
    """Gains of the methods that several data sets have, a column for each data set and depth."""
    all_of_them = [each for each in all_of_them if any(len(runs) >= SEEDS for runs in each.runs.values())]
    shared = [name for name in methods() if sum(len(each.runs.get(name, [])) >= SEEDS for each in all_of_them) > 1]
    lines = [f"| method | {' | '.join(f'{each.dataset}, {each.layers} layers' for each in all_of_them)} |"]
    lines.append(f"|---|{'---:|' * len(all_of_them)}")
    for name in shared:
        cells = []
        for each in all_of_them:
            if len(each.runs.get(name, [])) < SEEDS:
                cells.append("")
            elif name == each.control:
                cells.append("0")
            else:
                gain, low, high = each.gain(name)
                cells.append(f"**{gain:+.1f}**" if low > 0 or high < 0 else f"{gain:+.1f}")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def main() -> None:
    found = studies()
    print(f"Gains over the better control in points, of {SEEDS} seeds; in bold where the interval excludes zero\n")
    print("\n".join(summary(found)))
    for each in found:
        print(f"\n{each.dataset}, {each.layers} of 6 layers; the teacher has {each.teacher:.3f} ({each.metric})\n")
        print("\n".join(each.table()))


if __name__ == "__main__":
    main()
