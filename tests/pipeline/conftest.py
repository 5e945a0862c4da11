"""One finished run of the tiny case, shared by the tests of this folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tiny_run import Case, Finished, Step, command, save_checkpoint, write_rows

from distil_nlp.training import DistillationTrainer


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

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DistillationTrainer, "compute_loss", watched)
        outcome = command("run", recipe, "--output-dir", folder / "run")
    assert outcome.code == 0, outcome.err
    return Finished(recipe, folder / "run", outcome, steps)


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DISTIL_NLP_CACHE", str(tmp_path / "cache"))
