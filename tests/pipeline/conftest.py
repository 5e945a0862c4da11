"""One finished run of the tiny case, shared by the tests of this folder."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_run import Case, Finished, Step, command, save_checkpoint, write_rows

from distil_nlp.export import native
from distil_nlp.training import DistillationTrainer


@contextmanager
def an_exporter() -> Iterator[pytest.MonkeyPatch]:
    """Early transformers 5 have no exporter; the runs of this folder then go through torch's."""
    with pytest.MonkeyPatch.context() as patch:
        if importlib.util.find_spec("transformers.exporters") is None:
            patch.setattr(native, "_trace", trace_with_torch)
        yield patch


@pytest.fixture(scope="module", autouse=True)
def _exporter() -> Iterator[None]:
    with an_exporter():
        yield


def trace_with_torch(model: Any, sample: Any, path: Path, *, fusions: str | None) -> None:
    example, sizes = native._example(sample), dict.fromkeys((0, 1), torch.export.Dim.DYNAMIC)
    with torch.no_grad():
        outputs = [name for name, value in model(**example).items() if torch.is_tensor(value)]
    torch.onnx.export(
        model,
        kwargs=example,
        dynamic_shapes=dict.fromkeys(example, sizes),
        input_names=list(example),
        output_names=outputs,
        dynamo=True,
        verbose=False,
    ).save(path)


@pytest.fixture(scope="session")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    folder = tmp_path_factory.mktemp("case")
    return Case(folder, save_checkpoint(folder / "model"), write_rows(folder / "rows.csv"))


@pytest.fixture(scope="session")
def finished(case: Case, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """A whole run, which tests must leave as it is."""
    folder = tmp_path_factory.mktemp("finished")
    recipe, steps = case.recipe(folder), {}
    compute_loss = DistillationTrainer.compute_loss

    def watched(self: DistillationTrainer, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        if model.training:
            step = Step([o.name for o in self._objectives()], self.teacher is not None, inputs["input_ids"].tolist())
            steps.setdefault(Path(self.args.output_dir).name, []).append(step)
        return compute_loss(self, model, inputs, *args, **kwargs)

    with an_exporter() as patch:
        patch.setattr(DistillationTrainer, "compute_loss", watched)
        outcome = command("run", recipe, "--output-dir", folder / "run")
    assert outcome.code == 0, outcome.err
    return Finished(recipe, folder / "run", outcome, steps)


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DISTIL_NLP_CACHE", str(tmp_path / "cache"))
