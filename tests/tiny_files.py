"""Small files of rows in every format, and how they are loaded."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

from datasets import Dataset

from distil_nlp.data.load import TaskData, load_task_data
from distil_nlp.data.tasks import TextClassification
from distil_nlp.recipe.tasks import TextClassificationSection


def load(path: Path, **settings: Any) -> TaskData:
    values = {"name": "text-classification", "dataset": str(path), **settings}
    return load_task_data(TextClassification(TextClassificationSection.model_validate(values)))


def rows_of(count: int, start: int = 0) -> list[dict[str, Any]]:
    return [{"text": f"sentence {i}", "label": ("bad", "good")[i % 2]} for i in range(start, start + count)]


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def write_csv(path: Path, rows: list[dict[str, Any]], separator: str = ",", encoding: str = "utf-8") -> Path:
    lines = [separator.join(rows[0]), *(separator.join(str(value) for value in row.values()) for row in rows)]
    content = ("\n".join(lines) + "\n").encode(encoding)
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Writes rows in the format that the name says."""
    kind = path.name.removesuffix(".gz").rpartition(".")[2]
    if kind in ("csv", "tsv"):
        return write_csv(path, rows, "\t" if kind == "tsv" else ",")
    if kind == "parquet":
        Dataset.from_list(rows).to_parquet(str(path))
        return path
    if kind == "json":
        path.write_text(json.dumps(rows), encoding="utf-8")
        return path
    write_jsonl(path, rows)
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(path.read_bytes()))
    return path
