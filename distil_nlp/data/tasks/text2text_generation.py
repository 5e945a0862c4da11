"""A text written for another: summaries, translations, answers, by an encoder-decoder."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from transformers import (
    AutoModelForSeq2SeqLM,
    DataCollatorForSeq2Seq,
    DynamicCache,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from distil_nlp.data.batches import Lists, list_batches, list_counts, map_texts
from distil_nlp.data.read import RawData
from distil_nlp.data.tasks.base import TASKS, Array, Forward, Predictor
from distil_nlp.data.tasks.language_modeling import LanguageModeling
from distil_nlp.data.teacher_targets import TargetFile, with_teacher_targets
from distil_nlp.data.texts import text_column
from distil_nlp.data.writing import last_of_targets, writer
from distil_nlp.errors import ModelError

LIKELIHOOD = (("perplexity",), ("next_token_accuracy",))  # headlines for which nothing need be written


@TASKS.register("text2text-generation")
class Text2TextGeneration(LanguageModeling):
    """The tokens of ``target``, after ``source`` and each other; scored by what a model writes.

    With ``metrics: [perplexity]`` nothing is written: how likely the targets are is the score.
    """

    auto_class = AutoModelForSeq2SeqLM
    keys = ("source", "target")
    metrics = ("rouge_l", "rouge_1", "rouge_2", "sequence_accuracy")

    @property
    def predicts(self) -> str:  # type: ignore[override]
        """Texts, unless the headline is about the tokens of the targets."""
        return "likelihood" if self.settings.metrics[:1] in LIKELIHOOD else "text"

    @property
    def lengths(self) -> dict[str, int]:
        """Of sources and targets."""
        return {**super().lengths, "max_target_length": self.settings.max_target_length}

    def says_nothing(self, rows: Dataset, raw: RawData) -> bool:
        """All targets are empty."""
        return not any(text_column(rows, "target", self.settings))

    def clean_rows(self, rows: Dataset, dropped: Counter[str]) -> Dataset:
        """Those with ``source`` and ``target``."""
        columns = {key: text_column(rows, key, self.settings) for key in self.columns}
        kept = []
        for row, (source, target) in enumerate(zip(columns["source"], columns["target"], strict=True)):
            if source and target:
                kept.append(row)
            else:
                dropped["no target" if source else "empty source"] += 1
        return rows.rename_columns({column: key for key, column in self.columns.items()}).select(kept)

    def texts(self, rows: Dataset) -> list[tuple[str, ...]]:
        """The source."""
        return [(source,) for source in rows["source"][:]]

    def check_student(self, student: PreTrainedModel, teacher: PreTrainedModel) -> None:
        """Its decoder must fit into the cache with which it writes: that of T5 is as deep as the encoder."""
        depths = (getattr(student.config, name, None) for name in ("decoder_layers", "num_decoder_layers"))
        places = len(DynamicCache(config=student.config.get_text_config(decoder=True)).layers)
        if (depth := next(filter(None, depths), 0)) > places:
            raise ModelError(
                f"A student ({type(student).__name__}) with {depth} layers in its decoder is to write texts.",
                f"transformers gives it a cache of keys and values for {places}, as many as its encoder has.",
                "Keep as many layers of the encoder as of the decoder, or more.",
            )

    def corpus(self, rows: Dataset, tokenizer: PreTrainedTokenizerBase) -> Iterable[str]:
        """Sources and targets."""
        return [*(self.settings.prefix + source for source in rows["source"][:]), *rows["target"][:]]

    def tokenize(self, rows: Dataset, tokenizer: PreTrainedTokenizerBase) -> Dataset:
        """``input_ids`` and ``attention_mask`` of ``prefix`` and source, and ``labels``, the target's tokens."""
        settings = self.settings
        return map_texts(
            rows,
            _encode,
            tokenizer=tokenizer,
            prefix=settings.prefix,
            max_length=settings.max_length,
            max_target_length=settings.max_target_length,
        )

    def collator(self, tokenizer: PreTrainedTokenizerBase, *, train: bool = True) -> DataCollatorForSeq2Seq:
        """Pads sources and labels, these with ``-100``; what the decoder reads, each model makes of the labels."""
        return DataCollatorForSeq2Seq(tokenizer)

    def distilled(
        self,
        rows: Dataset,
        tokenizer: PreTrainedTokenizerBase,
        *,
        teacher: PreTrainedModel,
        fingerprint: Callable[[], str],
        folder: Path,
        batch_size: int,
    ) -> Dataset:
        """With ``targets: teacher``, rows with what the teacher writes, which is kept in ``teacher_targets.jsonl``."""
        if self.settings.targets != "teacher":
            return rows
        how = {"num_beams": self.settings.target_beams, "max_new_tokens": self.settings.max_target_length}
        generation = teacher.generation_config.to_json_string()
        digest = hashlib.blake2b(f"{fingerprint()} {how} {generation}".encode(), digest_size=16)
        for ids in rows["input_ids"]:
            digest.update(np.array([len(ids), *ids], dtype=np.int64).tobytes())
        file = TargetFile(
            folder / "teacher_targets.jsonl",
            belongs_to=digest.hexdigest(),
            decode=lambda tokens: str(tokenizer.decode(tokens, skip_special_tokens=True)),
        )
        write, tail = writer(teacher.eval(), **how), last_of_targets(teacher)
        return with_teacher_targets(
            rows,
            lambda batch: [[*tokens, *tail] for tokens in write(batch)],
            self.collator(tokenizer),
            file=file,
            batch_size=batch_size,
        )

    # ---- scores ----

    def forward(self, model: Predictor, tokenizer: PreTrainedTokenizerBase) -> Forward:
        """The texts that a model writes, as ``generate`` of the recipe has it; or its logits at the target's tokens."""
        if self.predicts == "likelihood":
            return model
        settings = self.settings.generate
        longest = settings.max_new_tokens or self.settings.max_target_length
        write = model.writer(num_beams=settings.num_beams, max_new_tokens=longest)
        return lambda batch: {"texts": tokenizer.batch_decode(write(batch), skip_special_tokens=True)}

    def keep(self, output: Mapping[str, Any], batch: Mapping[str, Array]) -> list[Array]:
        """Each text's bytes; or two figures of each of the target's tokens."""
        if "texts" not in output:
            return super().keep(output, batch)
        return [np.frombuffer(text.strip().encode("utf-8"), dtype=np.uint8) for text in output["texts"]]

    def predictions(self, outputs: Lists, rows: Dataset, examples: Dataset) -> Any:
        """The texts, or the sums of a row's figures."""
        if self.predicts == "likelihood":
            return super().predictions(outputs, rows, examples)
        return [text.tobytes().decode("utf-8") for text in outputs.by_row()]

    def references(self, rows: Dataset, examples: Dataset) -> Any:
        """The targets, whole; or how many tokens they have."""
        if self.predicts == "likelihood":
            return list_counts(rows, "labels")
        return list(examples["target"][:])

    def targets(self, rows: Dataset) -> list[Array]:
        """The tokens of the targets."""
        return [row for batch in list_batches(rows, "labels") for row in batch.by_row()]

    def weakness(self, outputs: Lists, rows: Dataset) -> str | None:
        """It writes one text for all rows; or its first choices are no better than the commonest token."""
        if self.predicts == "likelihood":
            return super().weakness(outputs, rows)
        written = {text.tobytes() for text in outputs.by_row()}
        if len(written) > 1 or len({tuple(labels) for labels in rows["labels"]}) == 1:
            return None
        return f"On {len(rows)} validation rows it writes the same text for all."


def _encode(
    batch: dict[str, list[Any]],
    tokenizer: PreTrainedTokenizerBase,
    prefix: str,
    max_length: int,
    max_target_length: int,
) -> dict[str, Any]:
    sources = [prefix + source for source in batch["source"]]
    encoded = tokenizer(sources, truncation=True, max_length=max_length)
    targets = tokenizer(text_target=batch["target"], truncation=True, max_length=max_target_length)
    return {**encoded, "labels": targets["input_ids"]}
