"""The stages of a run, each from the run's folder to the run's folder."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial
from itertools import chain
from typing import Any

from transformers import PreTrainedModel

from distil_nlp.build import Assembly
from distil_nlp.errors import DistilError, ModelError, RecipeError
from distil_nlp.evaluation.artefacts import Artefact, OnnxArtefact, PyTorchArtefact
from distil_nlp.evaluation.efficiency import (
    LatencyProtocol,
    count_parameters,
    latency_batch,
    latency_table,
    size_mb,
    weights_mb,
)
from distil_nlp.evaluation.ledger import Ledger
from distil_nlp.evaluation.metrics import higher_is_better, in_points
from distil_nlp.evaluation.writing_speed import writing_table
from distil_nlp.export import check_metric_drop, export_onnx, find_graphs, open_onnx
from distil_nlp.report.html import ledger_svg, render_html
from distil_nlp.run import Run
from distil_nlp.run.changes import STAGES, made_by
from distil_nlp.run.disk import disk_explained
from distil_nlp.run.distill import distill, steps_on_the_task
from distil_nlp.run.environment import environment
from distil_nlp.run.ledger import ledger_of
from distil_nlp.run.preflight import refuse_weak_members, refuse_weak_teacher
from distil_nlp.run.training import train
from distil_nlp.weights import is_quantized

SAMPLES = 4  # batches for the parity check of an export


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
    with disk_explained(run.folder.path):
        run.check_data(name)
        run.say_aside(run.folder.begin(name, run.recipe))
        started = time.perf_counter()
        result = {**WORK[name](run), **run.data_of(name), "environment": environment(run.recipe.seed)}
        parts = [part for part, stage in made_by(run.recipe).items() if stage == name]
        run.folder.finish(name, {"seconds": time.perf_counter() - started, **result}, parts)


def teach(run: Run) -> dict[str, Any]:
    """Fine-tunes the teachers, or takes them as they are, and refuses those that have learned nothing."""
    teachers = {}
    for name in run.recipe.teachers:
        teachers[name] = run.once(name, partial(_taught, run, name))
        try:
            refuse_weak_members(run.parts, run.models(name))
        except ModelError:
            run.folder.forget(name)  # the next run would only find the same
            raise
    if run.recipe.teacher.ensemble is not None:
        refuse_weak_teacher(run.parts, run.parts.guide(run.models("teacher")))
    return {"teachers": teachers}


def control(run: Run) -> dict[str, Any]:
    """Trains the student's architecture on the labelled rows, for as many steps as the student, without a teacher.

    Those on text alone do not count. Where the student has no other rows, both see the same ones in the same order.
    """
    parts = run.parts_of("student")
    [first, *_] = run.recipe.teachers
    teacher = parts.trimmed(parts.load_saved(run.folder.model(first)))
    return {"controls": {name: run.once(name, partial(_control, run, name, parts, teacher)) for name in run.controls}}


def evaluate(run: Run) -> dict[str, Any]:
    """Scores every PyTorch model on the test rows, and the student against its controls."""
    artefacts = {}
    controls = [name for name in run.controls if run.folder.has("control")]
    members = run.recipe.teachers if run.recipe.teacher.ensemble else ()
    for name in ("teacher", *members, "student", *controls):
        models = run.models(name)
        run.record(name, run.parts.guide(models))
        quantized_mb = sum(map(weights_mb, models.values())) if any(map(is_quantized, models.values())) else None
        artefacts[name] = {
            **run.scores(name),
            "parameters": sum(map(count_parameters, models.values())),
            "size_mb": quantized_mb or size_mb(*map(run.folder.model, models)),
        }
    return {"artefacts": artefacts, "gains": {name: run.gain(name) for name in controls}}


def export(run: Run) -> dict[str, Any]:
    """Exports the student, compares it with PyTorch, and refuses a quantized model that lost too much."""
    section = run.recipe.export
    student = run.folder.result("evaluate")["artefacts"]["student"]
    if section is None:
        raise RecipeError("The student was to be exported.", "The recipe has no section `export`.", "Add `export: {}`.")
    exported = export_onnx(
        run.folder.model("student"),
        run.folder.onnx,
        task=run.parts.task.export_task(cache=section.backend == "optimum" if section.cache is None else section.cache),
        backend=section.backend,
        quantization=section.quantization,
        target=section.target,
        samples=run.evaluation_batches("student").samples(SAMPLES),
        progress=run.progress,
    )
    artefacts, metric = {}, run.parts.metric_names[0]
    for name, graphs in (("onnx", exported.onnx), ("onnx_int8", exported.onnx_int8)):
        if graphs is None:
            continue
        run.record(name, open_onnx(graphs))
        artefacts[name] = {**run.scores(name), "parameters": student["parameters"], "size_mb": graphs.size_mb}
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
            exported.onnx_int8.delete()  # not to be shipped by mistake; what is in float32 stays
            raise
    return {"artefacts": artefacts, "export": exported.to_dict()}


def bench(run: Run) -> dict[str, Any]:
    """Times every artefact in turns, PyTorch and onnxruntime alike."""
    section = run.recipe.bench
    models = {name: list(run.models(name).values()) for name in ("teacher", "student")}
    artefacts: list[Artefact] = [PyTorchArtefact(name, *parts) for name, parts in models.items()]
    for name in run.folder.result("export")["artefacts"] if run.folder.has("export") else ():
        graphs = find_graphs(run.folder.onnx, quantized=name == "onnx_int8")
        if graphs is None:
            raise DistilError(
                f"The exported model '{name}' was to be timed.",
                f"{run.folder.onnx} does not hold it any more.",
                f"Export it again: distil-nlp export RECIPE --output-dir {run.folder.path}",
            )
        artefacts.append(OnnxArtefact(name, partial(open_onnx, graphs)))
    names = run.parts.tokenizer.model_input_names
    vocabulary = min(model.config.get_text_config().vocab_size for model in chain(*models.values()))
    two_parts = any(model.config.is_encoder_decoder for model in chain(*models.values()))
    batch_of = partial(
        latency_batch,
        sequence_length=section.sequence_length,
        vocab_size=vocabulary,
        input_names=names,
        last_id=run.parts.tokenizer.eos_token_id if two_parts else None,
    )
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


WORK: Mapping[str, Callable[[Run], dict[str, Any]]] = {
    "teach": teach,
    "distill": distill,
    "control": control,
    "evaluate": evaluate,
    "export": export,
    "bench": bench,
    "report": report,
}


def _taught(run: Run, name: str) -> dict[str, Any]:
    """Saves one teacher, fine-tuned if the recipe says so."""
    member = run.recipe.teachers[name]
    model = run.parts.teacher(member)
    if member.fine_tune is not None:
        return train(run, name, model, run.parts, arguments=member.fine_tune, seed=member.seed)
    run.save_model(name, model, run.parts)
    return {"parameters": None, "terms": [], "log_history": []}


def _control(run: Run, name: str, parts: Assembly, teacher: PreTrainedModel) -> dict[str, Any]:
    model = parts.control(name.removeprefix("control_"), teacher)
    return train(run, name, model, parts, arguments={**run.recipe.training, "max_steps": steps_on_the_task(run)})
