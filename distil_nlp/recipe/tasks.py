"""The ``task`` section of a recipe: what all tasks have, and what each has of its own."""

from __future__ import annotations

import math
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from distil_nlp.errors import near_match
from distil_nlp.recipe.errors import FaultError
from distil_nlp.recipe.rows import AugmentSection, DatasetReference, Texts
from distil_nlp.recipe.sections import Count, Fraction, Section, Word, unique

SPLITS = ("train", "validation", "test")
Flag = Annotated[bool, Field(strict=True)]


def _named(values: Any) -> Any:
    return {str(name): value for name, value in values.items()} if isinstance(values, dict) else values


def _whole_split(fractions: dict[str, float]) -> dict[str, float]:
    if set(fractions) != set(SPLITS) or not all(fraction > 0 for fraction in fractions.values()):
        raise FaultError(f"It is {fractions}.", "Give train, validation and test, each above 0.")
    if not math.isclose(total := sum(fractions.values()), 1.0, abs_tol=1e-6):
        raise FaultError(f"Its fractions sum to {total:g}.", "Make them sum to 1.")
    return fractions


def _known_splits(names: dict[str, str]) -> dict[str, str]:
    for split in names:
        if split not in SPLITS:
            raise FaultError(f"It names '{split}'.", f"{near_match(split, SPLITS)} Write {{ours: theirs}}.")
    if "train" not in names or len(set(names.values())) < len(names):
        raise FaultError(f"It is {names}.", "Name the data's split for train, and another for each of the others.")
    return names


class TaskSection(DatasetReference):
    """What is learned, and from which rows.

    Empty ``metrics`` stands for the task's own. Where rows are not ``labelled`` only a teacher says what is right.
    The keys in ``text_keys`` name columns with texts: a student may have further rows that have these and no labels,
    and copies by the methods that the task is ``augmented_by``. Where ``pretrained_suffices`` models come pre-trained
    for the very task, head and all. Students of ``decoding`` tasks are decoders, which write on from what they read, in
    ``num_beams`` at a time where texts are scored; those of ``encoder_decoder`` ones have two stacks of layers. Where
    models can be scored by the mean of their predictions these are ``averaged`` for an ensemble of teachers.
    """

    labelled: ClassVar[bool] = True
    text_keys: ClassVar[tuple[str, ...]] = ()
    augmented_by: ClassVar[tuple[str, ...]] = ()
    pretrained_suffices: ClassVar[bool] = False
    decoding: ClassVar[bool] = False
    encoder_decoder: ClassVar[bool] = False
    averaged: ClassVar[bool] = True

    name: Word
    split: Annotated[dict[str, Fraction], AfterValidator(_whole_split)] = Field(
        default_factory=lambda: {"train": 0.8, "validation": 0.1, "test": 0.1}
    )
    max_length: Count = 128
    metrics: Annotated[tuple[Word, ...], AfterValidator(unique)] = ()
    split_names: Annotated[dict[str, Word], AfterValidator(_known_splits)] | None = None
    unlabelled: Texts = None
    augment: AugmentSection | None = None

    @property
    def num_beams(self) -> int:
        """Width of the beam search by which texts are written to be scored."""
        return 1

    @model_validator(mode="after")
    def _check_student_rows(self) -> TaskSection:
        if self.unlabelled is not None and not self.text_keys:
            found = f"A student of {self.name} cannot have rows that its teacher alone labels."
            raise FaultError(found, "Leave it out.", key="unlabelled")
        for key in self.unlabelled.columns if self.unlabelled else {}:
            if key not in self.text_keys:
                fix = f"{near_match(key, self.text_keys)} Write {{ours: theirs}}."
                raise FaultError(f"It names the column of '{key}'.", fix, key="unlabelled.columns")
        unfit = [method for method in self.augment.methods if method not in self.augmented_by] if self.augment else []
        if unfit and not self.augmented_by:
            found = f"There are no methods for texts of {self.name}."
            raise FaultError(found, "Leave it out.", key="augment")
        if unfit:
            found = f"The method {unfit[0]} changes how many words a text has, and {self.name} is about each of them."
            raise FaultError(found, f"Use some of {', '.join(self.augmented_by)}.", key="augment.methods")
        return self


class TextClassificationSection(TaskSection):
    """One label a row (``classes`` makes them of other values), a list of labels, or a number."""

    text_keys = ("text", "text_pair")
    augmented_by = ("mask", "ngram", "neighbours", "masked_lm")

    name: Literal["text-classification"]
    problem: Literal["single_label", "multi_label", "regression"] = "single_label"
    text: Word = "text"
    text_pair: Word | None = None
    label: Word = "label"
    classes: Annotated[dict[str, Word], Field(min_length=2), BeforeValidator(_named)] | None = None
    group: Word | None = None

    @model_validator(mode="after")
    def _check_group(self) -> TextClassificationSection:
        if self.group is not None and (self.unlabelled is not None or self.augment is not None):
            found = "Rows that the teacher alone labels (unlabelled, augment) belong to none."
            raise FaultError(found, "Leave out `group`, or these rows.", key="group")
        return self

    @model_validator(mode="after")
    def _check_classes(self) -> TextClassificationSection:
        if self.classes is not None and self.problem != "single_label":
            raise FaultError(
                f"They make one label a row, and the problem is {self.problem}.",
                "Leave out `classes` or `problem`.",
                key="classes",
            )
        return self


class TokenClassificationSection(TaskSection):
    """A tag for each word; ``tokens`` and ``tags`` are columns of lists."""

    text_keys = ("tokens",)
    augmented_by = ("mask", "neighbours", "masked_lm")

    name: Literal["token-classification"]
    tokens: Word = "tokens"
    tags: Word = "tags"


class FeatureExtractionSection(TaskSection):
    """An embedding for each text; ``score`` says how alike the two texts of a row are, to evaluate by.

    Without ``pooling`` and ``normalize`` the teacher's folder says how its embeddings are made.
    """

    labelled = False
    averaged = False  # embeddings of two models have nothing in common
    text_keys = ("text",)  # further text need not come in pairs
    augmented_by = ("mask", "ngram", "neighbours", "masked_lm")

    name: Literal["feature-extraction"]
    text: Word = "text"
    text_pair: Word | None = None
    score: Word | None = None
    pooling: Literal["mean", "cls", "last"] | None = None
    normalize: Annotated[bool, Field(strict=True)] | None = None

    @model_validator(mode="after")
    def _check_score(self) -> FeatureExtractionSection:
        if self.score is not None and self.text_pair is None:
            fix = "Name the column with the second text as `text_pair`."
            raise FaultError("It says how alike two texts are, and a row has one.", fix, key="score")
        return self


class QuestionAnsweringSection(TaskSection):
    """A span of the context for each question; ``answers`` holds ``{text: [...], answer_start: [...]}``, as SQuAD."""

    name: Literal["question-answering"]
    question: Word = "question"
    context: Word = "context"
    answers: Word = "answers"
    max_length: Annotated[int, Field(strict=True, ge=16)] = 384
    stride: Annotated[int, Field(strict=True, ge=0)] = 128
    max_answer_tokens: Count = 30
    no_answer: Annotated[bool, Field(strict=True)] = False
    null_threshold: Annotated[float, Field(strict=True, allow_inf_nan=False)] = 0.0

    @model_validator(mode="after")
    def _check_windows(self) -> QuestionAnsweringSection:
        if self.stride > self.max_length // 2:
            raise FaultError(
                f"It is {self.stride} of the {self.max_length} tokens of a window (`max_length`).",
                "Let windows overlap by half of their tokens at most: a smaller stride, or a larger max_length.",
                key="stride",
            )
        if self.null_threshold and not self.no_answer:
            raise FaultError(
                "Every question is taken to have an answer.",
                "Add `no_answer: true`, or leave out null_threshold.",
                key="null_threshold",
            )
        return self


class FillMaskSection(TaskSection):
    """Hidden tokens of plain text; ``pack`` fills blocks of ``max_length`` with texts."""

    pretrained_suffices: ClassVar[bool] = True

    name: Literal["fill-mask"]
    text: Word = "text"
    pack: Flag = False
    mask_probability: Annotated[float, Field(strict=True, gt=0, lt=1)] = 0.15
    whole_words: Flag = False


class TextGenerationSection(TaskSection):
    """The next token: of plain ``text``, of the ``completion`` of a ``prompt``, or of an assistant's ``messages``."""

    pretrained_suffices: ClassVar[bool] = True
    decoding: ClassVar[bool] = True

    name: Literal["text-generation"]
    text: Word | None = None
    prompt: Word | None = None
    completion: Word | None = None
    separator: str = ""
    messages: Word | None = None
    pack: Flag = False

    @model_validator(mode="before")
    @classmethod
    def _plain_text(cls, values: Any) -> Any:
        columns = ("text", "prompt", "completion", "messages")
        if isinstance(values, dict) and all(values.get(column) is None for column in columns):
            return {**values, "text": "text"}
        return values

    @model_validator(mode="after")
    def _check_columns(self) -> TextGenerationSection:
        given = [key for key in ("text", "prompt", "completion", "messages") if getattr(self, key) is not None]
        if given not in (["text"], ["prompt", "completion"], ["messages"]):
            fix = "Give text, or prompt and completion, or messages."
            raise FaultError(f"It names columns for {' and '.join(given)}.", fix, key=given[-1])
        if self.separator and self.prompt is None:
            raise FaultError(
                "It stands between prompt and completion, and there are none.", "Leave it out.", key="separator"
            )
        if self.pack and self.text is None:
            found = f"It joins plain texts, and the rows have {' and '.join(given)}."
            raise FaultError(found, "Leave out `pack`.", key="pack")
        return self


class GenerateSection(Section):
    """How texts are written to be scored; ``max_new_tokens`` is ``task.max_target_length`` if null."""

    num_beams: Count = 1
    max_new_tokens: Count | None = None


class Text2TextGenerationSection(TaskSection):
    """A ``target`` text for each ``source``; the student learns the data's, or those that its teacher writes."""

    decoding: ClassVar[bool] = True
    encoder_decoder: ClassVar[bool] = True
    averaged: ClassVar[bool] = False  # texts are scored, and each model writes its own

    name: Literal["text2text-generation"]
    source: Word = "source"
    target: Word = "target"
    prefix: str = ""
    max_target_length: Count = 128
    generate: GenerateSection = GenerateSection()
    targets: Literal["data", "teacher"] = "data"
    target_beams: Count = 5

    @property
    def num_beams(self) -> int:
        """As :attr:`generate` has it."""
        return self.generate.num_beams


AnyTaskSection = Annotated[
    FeatureExtractionSection
    | TextClassificationSection
    | TokenClassificationSection
    | QuestionAnsweringSection
    | FillMaskSection
    | TextGenerationSection
    | Text2TextGenerationSection,
    Field(discriminator="name"),
]
