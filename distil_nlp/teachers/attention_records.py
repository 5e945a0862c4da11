"""Self-attention as rows of arrays, and back."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from distil_nlp.errors import ModelError
from distil_nlp.functional.attention import masked
from distil_nlp.signals import SelfAttention
from distil_nlp.teachers.packing import Packing, by_rows, placed, unpacked
from distil_nlp.teachers.row_keys import Rows
from distil_nlp.teachers.store import Array, Row

FULL, CAUSAL, MASKED = range(3)  # which tokens a row's tokens attend to: all, earlier ones, or as a mask says


def put_attention(packing: Packing, name: str, seen: SelfAttention, counts: Sequence[int]) -> None:
    """Adds one block's self-attention to rows; masks only where they say more than "all" or "earlier ones".

    Args:
        packing: The rows.
        name: Prefix of the arrays.
        seen: As captured, padded on the right if at all.
        counts: Tokens of each row that are not padding.

    Raises:
        ModelError: for attention with a bias that is more than a mask.
    """
    if seen.probabilities is not None:
        maps = seen.probabilities.permute(0, 2, 3, 1)  # [batch, tokens, tokens, heads]
        flat = torch.cat([maps[row, :count, :count].flatten(0, 1) for row, count in enumerate(counts)])
        packing.put(f"{name}.probabilities", flat, [count**2 for count in counts], feature=False)
        return
    for part in ("query", "key", "value"):
        packing.put(f"{name}.{part}", by_rows(getattr(seen, part).transpose(1, 2), counts), counts)
    ones = [1] * len(counts)
    packing.put_array(f"{name}.scaling", np.full(len(counts), seen.scaling, dtype=np.float64), ones)
    kinds, masks = _masks(seen, counts)
    packing.put_array(f"{name}.kind", np.array(kinds, dtype=np.uint8), ones)
    packing.put_array(f"{name}.mask", np.concatenate(masks), [len(mask) for mask in masks])


def attention_of(stored: Sequence[Row], name: str, rows: Rows, device: torch.device) -> SelfAttention:
    """One block's self-attention in a batch."""
    if f"{name}.probabilities" in stored[0]:
        return SelfAttention(probabilities=_maps(stored, name, rows, device))
    parts = {
        part: placed([unpacked(row, f"{name}.{part}") for row in stored], rows.first, rows.width, device)
        for part in ("query", "key", "value")
    }
    kinds = {int(row[f"{name}.kind"][0]) for row, count in zip(stored, rows.counts, strict=True) if count > 1}
    mask = None if len(kinds) < 2 and MASKED not in kinds else _whole_mask(stored, name, rows)
    return SelfAttention(
        **{part: values.transpose(1, 2) for part, values in parts.items()},  # [batch, heads, tokens, head_width]
        mask=None if mask is None else mask.to(device),
        scaling=float(stored[0][f"{name}.scaling"][0]),
        causal=kinds == {CAUSAL},
    )


def _masks(seen: SelfAttention, counts: Sequence[int]) -> tuple[list[int], list[Array]]:
    """What each row's tokens attend to, and its mask where that has to be told."""
    nothing = np.zeros(0, dtype=bool)
    if seen.mask is None:
        return [CAUSAL if seen.causal else FULL] * len(counts), [nothing] * len(counts)
    kinds, masks = [], []
    for row, count in enumerate(counts):
        mask = _allowed(seen.mask[row if len(seen.mask) > 1 else 0], count)
        if mask.all():
            kinds.append(FULL)
        elif np.array_equal(mask, np.tril(np.ones_like(mask))):
            kinds.append(CAUSAL)
        else:
            kinds.append(MASKED)
        masks.append(mask.flatten() if kinds[-1] == MASKED else nothing)
    return kinds, masks


def _allowed(mask: Tensor, count: int) -> Array:
    """``[count, count]`` boolean of one row's mask, ``[heads or 1, tokens or 1, tokens]``."""
    part = mask[:, :count, :count].cpu()
    allowed = ~masked(part)
    if len(mask) > 1 or (part.dtype != torch.bool and bool((part[allowed] != 0).any())):
        raise ModelError(
            "Self-attention of the teacher was to be stored.",
            "Something is added to its scores that is more than a mask (a bias by position, say).",
            "Use the teacher without a store, or leave the objectives on attention out.",
        )
    found: Array = allowed[0].expand(count, count).numpy()
    return found


def _whole_mask(stored: Sequence[Row], name: str, rows: Rows) -> Tensor:
    """``[batch, 1, tokens, tokens]`` boolean."""
    whole = np.zeros((len(stored), 1, rows.width, rows.width), dtype=bool)
    for number, (row, count, first) in enumerate(zip(stored, rows.counts, rows.first, strict=True)):
        kind, own = row[f"{name}.kind"][0], np.ones((count, count), dtype=bool)
        if kind == CAUSAL:
            own = np.tril(own)
        elif kind == MASKED:
            own = row[f"{name}.mask"].reshape(count, count)
        whole[number, 0, first : first + count, first : first + count] = own
    return torch.from_numpy(whole)


def _maps(stored: Sequence[Row], name: str, rows: Rows, device: torch.device) -> Tensor:
    """``[batch, heads, tokens, tokens]``, 0 at padding."""
    heads = stored[0][f"{name}.probabilities"].shape[1]
    whole = np.zeros((len(stored), heads, rows.width, rows.width), dtype=np.float32)
    for number, (row, count, first) in enumerate(zip(stored, rows.counts, rows.first, strict=True)):
        own = row[f"{name}.probabilities"].reshape(count, count, heads)
        whole[number, :, first : first + count, first : first + count] = own.transpose(2, 0, 1)
    return torch.from_numpy(whole).to(device)
