"""The command line: `distil-nlp run RECIPE`, and each stage alone."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from distil_nlp.errors import DistilError, near_match
from distil_nlp.report.numbers import duration

if TYPE_CHECKING:
    from distil_nlp.run import Run

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    help=__doc__,
    rich_markup_mode=None,
)
console = Console(highlight=False, soft_wrap=True)
errors = Console(stderr=True, highlight=False, soft_wrap=True)

RecipeName = Annotated[str, typer.Argument(metavar="RECIPE", help="A YAML file, or the name of a shipped recipe.")]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[SECTION.KEY=VALUE]...", help="Overrides, each value in YAML.")
]
OutputDir = Annotated[Path | None, typer.Option(help="The run's folder; runs/NAME if not given.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on at the last finished stage and checkpoint.")]


def main() -> None:
    """Runs the command line; what a user can mend is printed without a traceback."""
    try:
        app()
    except DistilError as error:
        for part, style in ((error.asked, "bold red"), (error.found, ""), (error.fix, "green")):
            if part:
                errors.print(part, style=style, markup=False)
        sys.exit(1)
    except SystemExit as end:
        if end.code == 130:  # typer's answer to Ctrl-C, without a word
            errors.print("\nInterrupted. What is finished is kept: start again to go on (a whole run with --resume).")
        raise


@app.command()
def run(recipe: RecipeName, overrides: Overrides = None, output_dir: OutputDir = None, resume: Resume = False) -> None:
    """Checks a recipe, then teaches, distils, evaluates, exports, times and reports."""
    from distil_nlp.run.stages import planned

    started = time.perf_counter()
    work = _open(recipe, overrides, output_dir)
    work.folder.check_start(work.recipe, resume=resume)
    if not all(work.folder.has(stage) for stage in planned(work)):
        _check(work)
    _describe(work)
    for stage in planned(work):
        if work.folder.has(stage):
            console.print(f"{stage:<10} done before")
        else:
            _stage(work, stage)
    _show(work)
    console.print(f"The whole run took {duration(time.perf_counter() - started)}.")


@app.command()
def check(recipe: RecipeName, overrides: Overrides = None, output_dir: OutputDir = None) -> None:
    """Validates a recipe, and runs one real batch through everything that it names."""
    _check(_open(recipe, overrides, output_dir))


def _alone(stage: str, text: str) -> Callable[..., None]:
    def command(recipe: RecipeName, overrides: Overrides = None, output_dir: OutputDir = None) -> None:
        work = _open(recipe, overrides, output_dir)
        _describe(work, stage)
        _stage(work, stage)
        if stage == "distill" and work.recipe.control:
            _stage(work, "control")
        if stage == "report":
            _show(work)

    command.__doc__ = text
    return command


for _name, _text in {
    "teach": "Fine-tunes the teacher.",
    "distill": "Trains the student, and its controls.",
    "evaluate": "Scores teacher, student and controls on the test rows.",
    "export": "Exports the student to ONNX, quantizes it, and compares it with PyTorch.",
    "bench": "Times every artefact.",
    "report": "Writes report.json and report.html.",
}.items():
    app.command(name=_name)(_alone(_name, _text))


@app.command(name="list")
def list_(
    what: Annotated[
        str, typer.Argument(help="recipes, objectives, tasks, metrics, mappings, schedules or weightings.")
    ],
) -> None:
    """Lists what a recipe can name."""
    from distil_nlp.data.tasks import TASKS
    from distil_nlp.evaluation.metrics import METRICS
    from distil_nlp.mapping import STRATEGIES
    from distil_nlp.objectives import OBJECTIVES
    from distil_nlp.recipe import shipped_recipes
    from distil_nlp.recipe.sections import WEIGHTINGS
    from distil_nlp.training import SCHEDULES

    known: dict[str, Any] = {
        "recipes": shipped_recipes(),
        "objectives": OBJECTIVES,
        "tasks": TASKS,
        "metrics": METRICS,
        "mappings": STRATEGIES,
        "schedules": SCHEDULES,
        "weightings": WEIGHTINGS,
    }
    if what not in known:
        raise DistilError(f"There is no list of '{what}'.", near_match(what, known))
    for name in known[what]:
        console.print(name, markup=False)


@app.command()
def env() -> None:
    """Prints versions and hardware, for bug reports."""
    from distil_nlp.run.environment import environment

    for key, value in environment(seed=0).items():
        if key != "seed":
            console.print(f"{key:<14} {value}", markup=False)


def _open(recipe: str, overrides: list[str] | None, output_dir: Path | None) -> Run:
    from distil_nlp.recipe import Recipe

    loaded = Recipe.load(recipe, overrides or ())
    _quiet_libraries()
    from distil_nlp.run import Run

    work = Run(loaded, output_dir or Path("runs") / loaded.name, progress=_say)
    for stage in loaded.distillation:
        work.parts.objectives(stage)  # their names and parameters
    return work


def _quiet_libraries() -> None:
    """Their notes are for library users; errors and progress bars of training stay."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    from datasets.utils.logging import disable_progress_bar
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    disable_progress_bar()


def _describe(work: Run, stage: str | None = None) -> None:
    from distil_nlp.run.disk import disk_explained

    with disk_explained(work.folder.path):
        work.say_aside(work.folder.describe(work.recipe, stage))


def _check(work: Run) -> None:
    from distil_nlp.run.preflight import check as preflight

    with console.status("checking", spinner="line"):
        found = preflight(work.parts, work.saved("teacher") if work.folder.has("teach") else None)
    for line in found.lines():
        _say(line)


def _stage(work: Run, stage: str) -> None:
    from distil_nlp.run.stages import run_stage

    started = time.perf_counter()
    console.print(f"[bold]{stage}[/bold]")
    run_stage(work, stage)
    console.print(f"{stage:<10} {duration(time.perf_counter() - started)}")


def _show(work: Run) -> None:
    from distil_nlp.evaluation.ledger import Ledger
    from distil_nlp.report.tables import terminal_table

    path = work.folder.path / "report.json"
    figures = Ledger.load(path).model_dump(by_alias=True, mode="json")
    console.print(terminal_table(figures))
    for sentence in figures["verdict"]:
        console.print(sentence, markup=False)
    console.print(f"Report: {path.with_suffix('.html')}", markup=False)


def _say(line: str) -> None:
    console.print(f"           {line}", markup=False)


if __name__ == "__main__":
    main()
