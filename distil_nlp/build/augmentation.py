"""What a recipe says of augmentation: how texts are changed, and where other words come from."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoModelForMaskedLM, PreTrainedModel, PreTrainedTokenizerBase

from distil_nlp.build.loading import Loader
from distil_nlp.data.align import check_tokenizer_fits
from distil_nlp.data.augment import Augmentation
from distil_nlp.data.candidates import CandidateSource, MaskedWords, Neighbours
from distil_nlp.errors import ModelError, RecipeError
from distil_nlp.recipe import Recipe


def make_augmentation(
    recipe: Recipe, loader: Loader, *, tokenizer: PreTrainedTokenizerBase, teacher: PreTrainedModel
) -> Augmentation | None:
    """How the student's copies of training rows are made; None where the recipe asks for none.

    Args:
        recipe: The recipe.
        loader: Loads the masked language model, for the method ``masked_lm``.
        tokenizer: The teacher's, whose mask token words become.
        teacher: Whose input embeddings say which words are neighbours.

    Raises:
        DistilError: for a tokenizer without a mask token, or a model that is no masked language model.
    """
    section = recipe.task.augment
    if section is None:
        return None
    if "mask" in section.methods and tokenizer.mask_token is None:
        raise RecipeError(
            f"{recipe.line_of('task.augment.methods')}: the method mask puts a mask token in the place of words.",
            f"The teacher's tokenizer ({type(tokenizer).__name__}) has none.",
            "Leave the method out.",
        )
    sources: list[CandidateSource] = []
    if "neighbours" in section.methods:
        embeddings: Any = teacher.get_input_embeddings()
        sources.append(Neighbours(tokenizer, embeddings.weight, count=section.candidates))
    if "masked_lm" in section.methods:
        sources.append(_masked_words(section, loader, recipe.task.max_length))
    return Augmentation(
        copies=section.copies,
        seed=recipe.seed,
        mask_token=tokenizer.mask_token if "mask" in section.methods else None,
        mask_probability=section.mask_probability * ("mask" in section.methods),
        replace_probability=section.replace_probability * section.replaces,
        ngram_probability=section.ngram_probability * ("ngram" in section.methods),
        sources=tuple(sources),
    )


def _masked_words(section: Any, loader: Loader, max_length: int) -> MaskedWords:
    loaded: Any = loader.model(section, AutoModelForMaskedLM, output_loading_info=True)
    model, loading = loaded
    if loading["missing_keys"]:
        raise ModelError(
            f"'{section.model}' was to say which words fit in the place of a mask.",
            f"It has no head for that: {sorted(loading['missing_keys'])[0]} is missing.",
            "Name a checkpoint of a masked language model (bert-base-uncased, say) as `task.augment.model`.",
        )
    tokenizer = loader.tokenizer(section)
    check_tokenizer_fits(tokenizer, model.config, max_length=max_length, key="task.max_length")
    model = model.to("cuda" if torch.cuda.is_available() else "cpu")
    return MaskedWords(model, tokenizer, count=section.candidates, max_length=max_length)
