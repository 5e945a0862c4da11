"""What a student saves: its size and its arithmetic beside the teacher's."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import PreTrainedModel


@dataclass(frozen=True)
class ModelSize:
    """How large a model is, and what it computes.

    Attributes:
        parameters: Tied ones count once.
        size_mb: Megabytes (10^6 bytes) of the parameters in float32.
        multiply_adds: Of all matrix products, per token.
    """

    parameters: int
    size_mb: float
    multiply_adds: float


@dataclass(frozen=True)
class StudentDescription:
    """A student beside its teacher; prints as a small table.

    Attributes:
        teacher: The teacher's size.
        student: The student's size.
        tokens: Length of the text that multiply-adds are counted on; attention costs more per token in longer ones.
    """

    teacher: ModelSize
    student: ModelSize
    tokens: int

    def __str__(self) -> str:
        old, new = self.teacher, self.student
        lines = [
            _line("parameters", old.parameters, new.parameters, digits=0),
            _line("megabytes in float32", old.size_mb, new.size_mb, digits=1),
            _line("million multiply-adds per token", old.multiply_adds / 1e6, new.multiply_adds / 1e6, digits=2),
        ]
        note = f"(of matrix products, in a text of {self.tokens} tokens; looking up embeddings counts nothing)"
        return "\n".join([*lines, note])


def describe_student(
    teacher: PreTrainedModel, student: PreTrainedModel, *, tokens: int | None = None
) -> StudentDescription:
    """Counts parameters and multiply-adds of both models; each runs once on one text.

    Args:
        teacher: The teacher.
        student: The student.
        tokens: Length of that text; 128, or as many as both models have positions for.
    """
    limits = [getattr(model.config.get_text_config(), "max_position_embeddings", None) for model in (teacher, student)]
    if tokens is None:  # half of the positions, since some models number them from the padding id on
        tokens = min([128, *(limit // 2 for limit in limits if limit and limit > 0)])
    return StudentDescription(model_size(teacher, tokens=tokens), model_size(student, tokens=tokens), tokens)


def model_size(model: PreTrainedModel, *, tokens: int) -> ModelSize:
    """Counts a model's parameters, and its multiply-adds in a forward pass over one text of ``tokens`` tokens."""
    parameters = sum(parameter.numel() for parameter in model.parameters())
    ids = torch.arange(tokens, device=model.device).unsqueeze(0) % model.config.get_text_config().vocab_size
    inputs = {"input_ids": ids}
    if getattr(model.config, "is_encoder_decoder", False):
        inputs["decoder_input_ids"] = ids
    training, attention = model.training, model.config._attn_implementation
    experts = getattr(model.config, "_experts_implementation", None)
    switched = model._can_set_attn_implementation()
    if switched:
        model.set_attn_implementation("eager")  # the counter does not know every fused attention
    if experts:
        model.set_experts_implementation("eager")  # nor grouped products
    try:
        with torch.enable_grad(), FlopCounterMode(display=False) as counter:
            model.eval()(**inputs)
    finally:
        model.train(training)
        if switched:
            model.set_attn_implementation(attention)
        if experts:
            model.set_experts_implementation(experts)
    return ModelSize(parameters, parameters * 4 / 1e6, counter.get_total_flops() / 2 / tokens)


def _line(name: str, before: float, after: float, *, digits: int) -> str:
    return f"{name:<33}{before:>15,.{digits}f} -> {after:>15,.{digits}f}{after / before:>8.1%}"
