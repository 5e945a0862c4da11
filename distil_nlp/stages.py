"""The stages of a run, each from the run's folder to the run's folder."""

from __future__ import annotations

import errno
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from transformers import PreTrainedModel, set_seed

from distil_nlp.errors import TrainingError
from distil_nlp.evaluation.efficiency import (
    Artefact,
    LatencyProtocol,
    OnnxArtefact,
    PyTorchArtefact,
    count_parameters,
    latency_batch,
    latency_table,
    size_mb,
)
from distil_nlp.evaluation.ledger import Ledger
from distil_nlp.evaluation.metrics import higher_is_better
from distil_nlp.export import check_metric_drop, export_onnx, make_session, onnx_logits, torch_logits
from distil_nlp.ledger_of_run import ledger_of
from distil_nlp.objectives import LayerObjective, TaskLoss
from distil_nlp.preflight import refuse_weak_teacher
from distil_nlp.report.html import ledger_svg, render_html
from distil_nlp.run import Run

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
        run.folder.save_model("teacher", teacher, run.parts.tokenizer)
        return {"parameters": None, "log_history": []}
    result = _train(run, "teacher", run.parts.pretrained(), arguments=arguments)
    refuse_weak_teacher(run.parts, run.parts.load_saved(run.folder.model("teacher")))
    return result


def distill(run: Run) -> dict[str, Any]:
    """Trains the student under the recipe's objectives."""
    teacher = run.parts.load_saved(run.folder.model("teacher"))
    student = run.parts.student(teacher)
    loss = run.parts.loss(student, teacher)
    result = _train(run, "student", student, arguments=run.recipe.training, teacher=teacher, **loss)
    return {
        **result,
        "layer_maps": {o.name: o.layer_map for o in loss["objectives"] if isinstance(o, LayerObjective)},
        "student_layers": student.config.get_text_config().num_hidden_layers,
        "teacher_layers": teacher.config.get_text_config().num_hidden_layers,
    }


def control(run: Run) -> dict[str, Any]:
    """Trains the student's architecture on the same rows, in the same order, for the same steps, without a teacher."""
    teacher = run.parts.load_saved(run.folder.model("teacher"))
    for name in run.controls:
        if not run.folder.has(name):  # or else the stage was interrupted after it
            model = run.parts.control(name.removeprefix("control_"), teacher)
            run.folder.finish(name, _train(run, name, model, arguments=run.recipe.training))
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
        batches = run.evaluation_batches(f"Evaluating {name}")
        run.folder.save_logits(name, batches.logits(torch_logits(model, batches)))
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
        task=run.recipe.task.name,
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
        batches = run.evaluation_batches(f"Evaluating {name}")
        run.folder.save_logits(name, batches.logits(onnx_logits(path, batches)))
        artefacts[name] = {**run.scores(name), "parameters": student["parameters"], "size_mb": size_mb(path)}
    if exported.onnx_int8 is not None:
        before, after = (scores["metrics"][metric] for scores in (student, artefacts["onnx_int8"]))
        try:
            check_metric_drop(
                before,
                after,
                section.max_metric_drop,
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
    latencies = latency_table(
        artefacts,
        lambda size: latency_batch(
            size, sequence_length=section.sequence_length, vocab_size=vocabulary, input_names=names
        ),
        LatencyProtocol(
            batch_sizes=section.batch_sizes,
            threads=section.threads,  # type: ignore[arg-type]
            sequence_length=section.sequence_length,
            repeats=section.repeats,
        ),
        progress=lambda done, total: run.progress(f"timed {done} of {total} settings"),
    )
    return {"latencies": latencies}


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


def _train(run: Run, name: str, model: PreTrainedModel, *, arguments: dict[str, Any], **trainer: Any) -> dict[str, Any]:
    """Trains a model from its newest checkpoint, if there is one, saves it, and only then drops its checkpoints."""
    checkpoints = run.folder.checkpoints / name
    if trainer.get("objectives") is None:
        trainer["objectives"] = [TaskLoss()]
    set_seed(run.recipe.seed)
    training = run.parts.trainer(model, arguments=arguments, output_dir=checkpoints, **trainer)
    training.train(resume_from_checkpoint=True)
    run.folder.save_model(name, model, run.parts.tokenizer)
    shutil.rmtree(checkpoints, ignore_errors=True)
    with suppress(OSError):  # another model's checkpoints are there
        checkpoints.parent.rmdir()
    return {
        "parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
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
