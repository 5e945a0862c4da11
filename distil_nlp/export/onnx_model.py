"""An exported model that is open: a function of padded batches, whether it is one graph or several."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from transformers import AutoConfig, GenerationConfig

from distil_nlp.data.writing import ends_of, up_to_end
from distil_nlp.errors import ExportError
from distil_nlp.export.batches import Arrays, Batch, attention_mask, complete_batch, decoder_inputs
from distil_nlp.export.decoder import Decoder, is_present
from distil_nlp.export.generate import generate
from distil_nlp.export.graphs import Graphs
from distil_nlp.export.optimum_script import empty_past
from distil_nlp.export.rules import check_rules, generation_rules
from distil_nlp.export.session import make_session, run_session

if TYPE_CHECKING:
    import onnxruntime


class Beginning(NamedTuple):
    """What a decoder is given first: tokens, ``[batch, tokens]``, their mask, and what it reads at every step."""

    ids: np.ndarray
    mask: np.ndarray
    context: Batch


class OnnxModel(ABC):
    """Graphs in onnxruntime that together are a model.

    Called with a padded batch it gives, by name, what the PyTorch model's forward pass gives, and raises ExportError if
    the graphs do not run on it.

    Attributes:
        decoder: The graph that gives the logits of tokens; of an encoder, the only one.
    """

    decoder: Decoder

    @abstractmethod
    def __call__(self, batch: Batch) -> Arrays:
        """The outputs for a batch, without a cache of keys and values."""

    @abstractmethod
    def in_steps(self, batch: Batch) -> Arrays:
        """The same outputs by way of the cache: later tokens are computed on what is kept of earlier ones."""

    @abstractmethod
    def complete(self, batch: Batch) -> Batch:
        """A batch with all that the graphs read, and that the PyTorch model can be given as well."""

    @abstractmethod
    def call(self, batch: Batch) -> Callable[[], object]:
        """A call without arguments that answers a batch once, made ready to be timed."""

    @abstractmethod
    def begin(self, batch: Batch) -> Beginning:
        """What the decoder is given first, to go on from."""

    def writer(self, *, num_beams: int, max_new_tokens: int) -> Callable[[Batch], list[list[int]]]:
        """What writes a text for each row of a batch, as :func:`~distil_nlp.data.writing.writer` of a PyTorch model.

        Raises:
            ExportError: It cannot be done with these graphs, or not in this way.
        """
        raise ExportError("Write texts to be scored.", "The export is one graph, of no encoder-decoder.")


class OneGraph(OnnxModel):
    """An encoder's graph or a decoder's.

    Args:
        session: The graph's.
        name: What errors call it.
    """

    def __init__(self, session: onnxruntime.InferenceSession, name: str = "the graph") -> None:
        self.session, self.name, self.decoder = session, name, Decoder(session, name)
        self.inputs = self.decoder.inputs

    def __call__(self, batch: Batch) -> Arrays:
        """The graph is given only the inputs that it has; of a cache, an empty one."""
        outputs = [value.name for value in self.session.get_outputs() if not is_present(value.name)]
        return dict(zip(outputs, run_session(self.session, outputs, self._feeds(batch), self.name), strict=True))

    def in_steps(self, batch: Batch) -> Arrays:
        """In two parts, the second on what is kept of the first."""
        ids, mask = np.asarray(batch["input_ids"], dtype=np.int64), attention_mask(batch)
        half = -(-ids.shape[1] // 2)
        first, past = self.decoder.step(ids[:, :half], mask[:, :half])
        rest = [self.decoder.step(ids[:, half:], mask, past)[0]] if half < ids.shape[1] else []
        return {"logits": np.concatenate([first, *rest], axis=1)}

    def complete(self, batch: Batch) -> Batch:
        """With position and token type ids, if the graph has them."""
        return complete_batch(batch, self.inputs)

    def call(self, batch: Batch) -> Callable[[], object]:
        """The session's run, inputs already as they are fed."""
        return partial(self.session.run, None, self._feeds(batch))

    def begin(self, batch: Batch) -> Beginning:
        """The prompt."""
        return Beginning(np.asarray(batch["input_ids"], dtype=np.int64), attention_mask(batch), {})

    def _feeds(self, batch: Batch) -> dict[str, np.ndarray]:
        full = complete_batch(batch, self.inputs)
        full |= empty_past(self.session, len(next(iter(full.values()))))
        if missing := sorted(set(self.inputs) - set(full)):
            raise ExportError(
                f"Run {self.name}.",
                f"It wants {', '.join(missing)}; the batch has {', '.join(sorted(batch))}.",
                "Give the inputs that the graph asks for, or export the model again.",
            )
        return {name: full[name] for name in self.inputs}


class EncoderDecoder(OnnxModel):
    """An encoder's graph, and a decoder's that reads its states.

    Args:
        encoder: The encoder's session.
        decoder: The decoder's.
        folder: Of the export, with ``config.json``.
        name: What errors call it.
    """

    def __init__(
        self,
        encoder: onnxruntime.InferenceSession,
        decoder: onnxruntime.InferenceSession,
        *,
        folder: Path,
        name: str = "the graphs",
    ) -> None:
        self.encoder, self.decoder, self.folder, self.name = encoder, Decoder(decoder, name), folder, name

    def __call__(self, batch: Batch) -> Arrays:
        """The decoder reads ``decoder_input_ids``, or else what its model makes of ``labels``."""
        ids = self.complete(batch)["decoder_input_ids"]
        context = self._context(batch)
        return self._outputs(context, self.decoder.step(ids, np.ones_like(ids), context=context)[0])

    def in_steps(self, batch: Batch) -> Arrays:
        """Token by token."""
        ids = self.complete(batch)["decoder_input_ids"]
        context, past, logits = self._context(batch), None, []
        for place in range(ids.shape[1]):
            mask = np.ones_like(ids[:, : place + 1])
            given, past = self.decoder.step(ids[:, place : place + 1], mask, past, context=context)
            logits.append(given)
        return self._outputs(context, np.concatenate(logits, axis=1))

    def complete(self, batch: Batch) -> Batch:
        """With what the decoder reads."""
        return self._decoder_inputs(batch)

    def call(self, batch: Batch) -> Callable[[], object]:
        """It reads the batch and writes the first token."""
        return partial(generate, self, batch, max_new_tokens=1)

    def begin(self, batch: Batch) -> Beginning:
        """The token that texts start with, and what the encoder makes of the batch."""
        start = self.generation.decoder_start_token_id
        ids = np.full((len(batch["input_ids"]), 1), self.generation.bos_token_id if start is None else start)
        return Beginning(ids, np.ones_like(ids), self._context(batch))

    @cached_property
    def generation(self) -> GenerationConfig:
        """What the export's ``generation_config.json`` says, or else its ``config.json``."""
        if (self.folder / "generation_config.json").is_file():
            return GenerationConfig.from_pretrained(self.folder, local_files_only=True)
        config = AutoConfig.from_pretrained(self.folder, local_files_only=True, trust_remote_code=False)
        return GenerationConfig.from_model_config(config)

    def writer(self, *, num_beams: int, max_new_tokens: int) -> Callable[[Batch], list[list[int]]]:
        """The likeliest token each time, as :attr:`generation` has it."""
        if num_beams != 1:
            found = "In onnxruntime the likeliest token is taken each time."
            raise ExportError(f"Write texts with {num_beams} beams.", found, "Use num_beams: 1.")
        check_rules(self.generation)
        ends = ends_of(self.generation)
        how: dict[str, Any] = {"max_new_tokens": max_new_tokens, "eos_token_id": ends}
        how["pad_token_id"] = self.generation.pad_token_id or 0
        how["rules"] = generation_rules(self.generation, start_length=1, new_tokens=max_new_tokens)
        return lambda batch: [up_to_end(row, ends) for row in generate(self, batch, **how).tolist()]

    @cached_property
    def _decoder_inputs(self) -> Callable[[Batch], Batch]:
        return decoder_inputs(self.folder)

    def _context(self, batch: Batch) -> dict[str, np.ndarray]:
        ids, mask = np.asarray(batch["input_ids"], dtype=np.int64), attention_mask(batch)
        feeds = {"input_ids": ids, "attention_mask": mask}
        (states,) = run_session(self.encoder, ["last_hidden_state"], feeds, self.name)
        return {"encoder_hidden_states": states, "encoder_attention_mask": mask}

    def _outputs(self, context: Batch, logits: np.ndarray) -> Arrays:
        return {"encoder_last_hidden_state": context["encoder_hidden_states"], "logits": logits}


def open_onnx(exported: Graphs | Path | str, threads: int | None = None) -> OnnxModel:
    """Opens an exported model on the CPU.

    Args:
        exported: What :func:`~distil_nlp.export.export_onnx` gave or :func:`find_graphs` found; or one ``.onnx`` file.
        threads: As in :func:`make_session`.

    Raises:
        ExportError: It is a folder, or a file is missing, damaged or needs a newer onnxruntime.
    """
    if not isinstance(exported, Graphs) and Path(exported).is_dir():
        fix = "Give find_graphs(FOLDER, quantized=True), which knows all of its files, or one .onnx file."
        raise ExportError(f"Open the ONNX model {exported}.", "It is a folder.", fix)
    graphs = exported if isinstance(exported, Graphs) else Graphs(Path(exported).parent, (Path(exported).stem,))
    sessions, name = [make_session(file, threads) for file in graphs.files], str(graphs.files[0])
    if len(sessions) == 1:
        return OneGraph(sessions[0], name)
    return EncoderDecoder(*sessions, folder=graphs.folder, name=name)
