"""The stages of a run, each from the run's folder to the run's folder."""

from __future__ import annotations

import errno
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from transformers import PreTrainedModel, set_seed

from distil_nlp.errors import TrainingError
from distil_nlp.evaluation.artefacts import Artefact, OnnxArtefact, PyTorchArtefact
from distil_nlp.evaluation.efficiency import (
    LatencyProtocol,
    count_parameters,
    latency_batch,
    latency_table,
    size_mb,
)
from distil_nlp.evaluation.ledger import Ledger
from distil_nlp.evaluation.metrics import higher_is_better, in_points
from distil_nlp.evaluation.writing_speed import writing_table
from distil_nlp.export import check_metric_drop, export_onnx, make_session, onnx_forward
from distil_nlp.objectives import LayerObjective, TaskLoss
from distil_nlp.report.html import ledger_svg, render_html
from distil_nlp.run import Run
from distil_nlp.run.ledger import ledger_of
from distil_nlp.run.preflight import refuse_weak_teacher
from distil_nlp.teachers import StoredTeacher

SAMPLES = 4  # batches for the parity check of an export
TORN = ("file write failed", "unexpected pos", "iostream error")  # what torch.save says on a full disk, among others


def planned(run: Run) -> list[str]:
    """What a whole run consists of, in order."""
    left_out = set() if run.recipe.export else {"export"}
    left_out |= set() if run.recipe.control else {"control"}
    return [name for name in STAGES if name not in left_out]


def run_stage(run: Run, name: str) -> None:
    """Runs one stage and records its result and its time; results of later stages are forgotten.

    Raises:
        DistilError: for whatever the user can mend; finished stages and checkpoints are kept.
    """
    run.folder.forget_from(name)
    started = time.perf_counter()
    with _full_disk_explained(run.folder.path):
        result = STAGES[name](run)
        run.folder.finish(name, {**result, "seconds": time.perf_counter() - started})


def teach(run: Run) -> dict[str, Any]:
    """Fine-tunes the teacher, or takes it as it is, and refuses one that has learned nothing."""
    arguments = run.recipe.teacher.fine_tune
    if arguments is None:
        teacher = run.parts.given_teacher()
        refuse_weak_teacher(run.parts, teacher)
        run.save_model("teacher", teacher)
        return {"parameters": None, "log_history": []}
    result = _train(run, "teacher", run.parts.pretrained(), arguments=arguments)
    refuse_weak_teacher(run.parts, run.parts.load_saved(run.folder.model("teacher")))
    return result


def distill(run: Run) -> dict[str, Any]:
    """Trains the student under the recipe's objectives."""
    teacher = run.parts.load_saved(run.folder.model("teacher"))
    student = run.parts.student(teacher)
    loss = run.parts.loss(student, teacher)
    rows, augmented = run.parts.student_rows(teacher, run.folder.path)
    guide = _stored(run, teacher, rows)
    result = _train(run, "student", student, arguments=run.recipe.training, teacher=guide, rows=rows, **loss)
    return {
        **result,
        "augmented": augmented,
        "layer_maps": {o.name: o.layer_map for o in loss["objectives"] if isinstance(o, LayerObjective)},
        "student_layers": student.config.get_text_config().num_hidden_layers,
        "teacher_layers": teacher.config.get_text_config().num_hidden_layers,
    }


def control(run: Run) -> dict[str, Any]:
    """Trains the student's architecture on the labelled rows, for as many steps as the student, without a teacher.

    Where the student has no other rows, both see the same ones in the same order.
    """
    teacher = run.parts.load_saved(run.folder.model("teacher"))
    arguments = {**run.recipe.training, "max_steps": run.folder.result("distill")["steps"]}
    for name in run.controls:
        if not run.folder.has(name):  # or else the stage was interrupted after it
            model = run.parts.control(name.removeprefix("control_"), teacher)
            run.folder.finish(name, _train(run, name, model, arguments=arguments))
    results = {name: run.folder.result(name) for name in run.controls}
    for name in run.controls:
        run.folder.forget(name)
    return {"controls": results}


def evaluate(run: Run) -> dict[str, Any]:
    """Scores every PyTorch model on the test rows, and the student against its controls."""
    artefacts = {}
    controls = [name for name in run.controls if run.folder.has("control")]
    for name in ("teacher", "student", *controls):
        model = run.parts.load_saved(run.folder.model(name))
        run.record(name, run.parts.forward(model))
        artefacts[name] = {
            **run.scores(name),
            "parameters": count_parameters(model),
            "size_mb": size_mb(run.folder.model(name)),
        }
    return {"artefacts": artefacts, "gains": {name: run.gain(name) for name in controls}}


def export(run: Run) -> dict[str, Any]:
    """Exports the student, compares it with PyTorch, and refuses a quantized model that lost too much."""
    section = run.recipe.export
    student = run.folder.result("evaluate")["artefacts"]["student"]
    if section is None:
        return {"artefacts": {}}
    exported = export_onnx(
        run.folder.model("student"),
        run.folder.onnx,
        task=run.parts.task.export_task(cache=section.backend == "optimum" if section.cache is None else section.cache),
        backend=section.backend,
        quantization=section.quantization,
        target=section.target,
        samples=run.evaluation_batches().samples(SAMPLES),
        progress=run.progress,
    )
    artefacts, metric = {}, run.parts.metric_names[0]
    for name, path in (("onnx", exported.onnx), ("onnx_int8", exported.onnx_int8)):
        if path is None:
            continue
        run.record(name, onnx_forward(path))
        artefacts[name] = {**run.scores(name), "parameters": student["parameters"], "size_mb": size_mb(path)}
    if exported.onnx_int8 is not None:
        before, after = (scores["metrics"][metric] for scores in (student, artefacts["onnx_int8"]))
        allowed = section.max_metric_drop * (1.0 if in_points(metric) else before)
        try:
            check_metric_drop(
                before,
                after,
                allowed,
                metric=metric,
                target=section.target,
                greater_is_better=higher_is_better(metric),
            )
        except BaseException:
            exported.onnx_int8.unlink()  # not to be shipped by mistake; the float32 graph stays
            raise
    return {"artefacts": artefacts, "export": exported.to_dict()}


def bench(run: Run) -> dict[str, Any]:
    """Times every artefact in turns, PyTorch and onnxruntime alike."""
    section = run.recipe.bench
    models = {name: run.parts.load_saved(run.folder.model(name)) for name in ("teacher", "student")}
    artefacts: list[Artefact] = [PyTorchArtefact(name, model) for name, model in models.items()]
    for name, file in (("onnx", "model.onnx"), ("onnx_int8", "model_quantized.onnx")):
        path = run.folder.onnx / file
        if run.folder.has("export") and path.is_file():
            artefacts.append(OnnxArtefact(name, lambda threads, path=path: make_session(path, threads)))  # type: ignore[misc]
    names = run.parts.tokenizer.model_input_names
    vocabulary = models["teacher"].config.get_text_config().vocab_size
    batch_of = partial(latency_batch, sequence_length=section.sequence_length, vocab_size=vocabulary, input_names=names)
    protocol = LatencyProtocol(
        batch_sizes=section.batch_sizes,
        threads=section.threads,  # type: ignore[arg-type]
        sequence_length=section.sequence_length,
        repeats=section.repeats,
    )

    def say(done: int, total: int) -> None:
        run.progress(f"timed {done} of {total} settings")

    result = {"latencies": latency_table(artefacts, batch_of, protocol, progress=say)}
    if run.recipe.task.decoding:
        run.progress(f"writing {section.new_tokens} tokens")
        tokens = section.new_tokens
        result["writing"] = writing_table(artefacts, batch_of, protocol, new_tokens=tokens, progress=say)
    return result


def report(run: Run) -> dict[str, Any]:
    """Writes report.json, and from it alone report.html and the picture."""
    ledger_of(run.folder, run.recipe, run.parts.data.summary, run.parts.metric_names[0]).save(
        run.folder.path / "report.json"
    )
    figures = Ledger.load(run.folder.path / "report.json").model_dump(by_alias=True, mode="json")
    (run.folder.path / "report.html").write_text(render_html(figures), encoding="utf-8")
    picture = ledger_svg(figures)
    if picture is not None:
        (run.folder.path / "report.svg").write_text(picture, encoding="utf-8")
    return {}


STAGES: Mapping[str, Callable[[Run], dict[str, Any]]] = {
    "teach": teach,
    "distill": distill,
    "control": control,
    "evaluate": evaluate,
    "export": export,
    "bench": bench,
    "report": report,
}


def _stored(run: Run, teacher: PreTrainedModel, rows: Any) -> PreTrainedModel | StoredTeacher:
    """The teacher, on whose outputs a store is put if the recipe says so."""
    section = run.recipe.teacher.store
    if section is None:
        return teacher
    folder = Path(section.folder) if section.folder else run.folder.path / "teacher_outputs"
    stored = StoredTeacher(teacher, folder, top_k=section.top_k, dtype=section.dtype, budget_mb=section.budget_mb)
    arguments = run.parts.training_arguments(run.recipe.training, run.folder.checkpoints / "student")
    stored.expected_rows = len(rows)
    if arguments.max_steps > 0:
        batch = arguments.train_batch_size * arguments.gradient_accumulation_steps * arguments.world_size
        stored.expected_rows = min(len(rows), arguments.max_steps * batch)
    return stored


def _train(run: Run, name: str, model: PreTrainedModel, *, arguments: dict[str, Any], **trainer: Any) -> dict[str, Any]:
    """Trains a model from its newest checkpoint, if there is one, saves it, and only then drops its checkpoints."""
    checkpoints = run.folder.checkpoints / name
    if trainer.get("objectives") is None:
        trainer["objectives"] = [TaskLoss()]
    set_seed(run.recipe.seed)
    training = run.parts.trainer(model, arguments=arguments, output_dir=checkpoints, **trainer)
    set_seed(run.recipe.seed)  # again: objectives may have drawn their first weights
    training.train(resume_from_checkpoint=True)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    run.save_model(name, model)
    shutil.rmtree(checkpoints, ignore_errors=True)
    with suppress(OSError):  # another model's checkpoints are there
        checkpoints.parent.rmdir()
    return {
        "parameters": trained,
        "size_mb": size_mb(run.folder.model(name)),
        "steps": training.state.global_step,
        "log_history": training.state.log_history,
    }


@contextmanager
def _full_disk_explained(folder: Path) -> Iterator[None]:
    """Says what to do about a full disk, whichever library ran into it."""
    try:
        yield
    except (OSError, SafetensorError, RuntimeError) as error:
        at = folder if folder.exists() else folder.parent
        full = getattr(error, "errno", None) == errno.ENOSPC or "No space left" in str(error)
        torn = any(words in str(error) for words in TORN) and shutil.disk_usage(at).free < 2**20
        if not (full or torn):
            raise
        raise TrainingError(
            f"A file was to be written to {folder}.",
            f"The disk is full ({shutil.disk_usage(at).free / 1e6:.0f} MB free).",
            "Free some space and start again (a whole run with --resume): finished stages and checkpoints are kept.",
        ) from error
