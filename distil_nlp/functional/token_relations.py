"""How the tokens of one example stand to each other: structures that models of unequal width can share."""

from __future__ import annotations

from torch import Tensor

from distil_nlp.errors import ModelError
from distil_nlp.functional.precision import precise
from distil_nlp.functional.similarity import unit
from distil_nlp.signals import SelfAttention

ALIKE = 1e-10  # share of its squares by which an example's tokens must differ: less is rounding in float32


def self_attention_relation(attention: SelfAttention, of: str, *, heads: int) -> SelfAttention:
    r"""The relation of queries to queries (or keys to keys, values to values), as attention of its own.

    .. math:: R_a = softmax(A_a A_a^\top / \sqrt{d_r}), \quad a = 1..heads

    where the vectors of all heads are laid side by side and cut into ``heads`` pieces, each :math:`d_r` wide. Under
    grouped-query attention keys and values are repeated first, once for each query head that reads them. Only
    padding is masked, and in a causal model later tokens: a window of local attention does not apply.

    Args:
        attention: What was captured of one block.
        of: ``"query"``, ``"key"`` or ``"value"``.
        heads: Number of relation heads; must divide the width of the vectors of all heads together.

    Returns:
        Attention whose query and key are both ``[batch, heads, tokens, d_r]``.

    Raises:
        ModelError: if ``heads`` does not divide the width.

    References:
        Wang et al. (2021), arXiv:2012.15828; for values and one relation head for each attention head Wang et al.
        (2020), arXiv:2002.10957, eq. 7 and 8.
    """
    vectors: Tensor = getattr(attention, of)
    repeats = attention.query.shape[1] // vectors.shape[1]  # type: ignore[union-attr]
    if repeats > 1:
        vectors = vectors.repeat_interleave(repeats, dim=1)
    own, width = vectors.shape[1], vectors.shape[1] * vectors.shape[3]
    if width % heads:
        raise ModelError(
            f"{heads} relation heads were asked for.",
            f"The {of} vectors of all heads together are {width} wide, which {heads} does not divide.",
            "Set relation_heads to a number that divides the width of both models, 1 for instance.",
        )
    if own != heads:
        side_by_side = vectors.transpose(1, 2).flatten(2)  # [batch, tokens, width]
        vectors = side_by_side.unflatten(2, (heads, -1)).transpose(1, 2)  # [batch, heads, tokens, d_r]
    return SelfAttention(vectors, vectors, None, vectors.shape[-1] ** -0.5, attention.causal)


def token_cka(student: Tensor, teacher: Tensor, valid: Tensor) -> Tensor:
    r"""Linear centred kernel alignment over the tokens of each example.

    .. math:: CKA(X, Y) = \frac{\| Y^\top X \|_F^2}{\| X^\top X \|_F \| Y^\top Y \|_F}
              = \frac{\langle X X^\top, Y Y^\top \rangle}{\| X X^\top \|_F \| Y Y^\top \|_F}

    where a row of X (Y) is the student's (teacher's) vector of a token that is not padding, less their mean. It does
    not change when either side is rotated or scaled, and the widths may differ.

    Args:
        student: ``[batch, tokens, width]``.
        teacher: ``[batch, tokens, teacher_width]``.
        valid: ``[batch, tokens]`` boolean, true where a token is not padding.

    Returns:
        ``[batch]`` between 0 and 1, float32 (float64 for float64); 0 where all tokens of either side are alike.

    References:
        Kornblith et al. (2019), arXiv:1905.00414, section 3 (linear CKA).
    """
    ours, theirs = (_centred_gram(states, valid) for states in (student, teacher))
    return (ours * theirs).sum((1, 2))


def gram_difference(student: Tensor, teacher: Tensor, valid: Tensor) -> Tensor:
    r"""Mean squared difference of the cosines between all pairs of tokens, per example.

    .. math:: \frac{1}{n^2} \sum_{i,j=1}^{n} (\cos(h^s_i, h^s_j) - \cos(h^t_i, h^t_j))^2

    over the n tokens that are not padding: the two Gram matrices of unit vectors. The widths may differ.

    Args:
        student: ``[batch, tokens, width]``.
        teacher: ``[batch, tokens, teacher_width]``.
        valid: ``[batch, tokens]`` boolean, true where a token is not padding.

    Returns:
        ``[batch]``, float32 (float64 for float64); 0 for an example without tokens.

    References:
        Liu et al. (2019), arXiv:1903.04197, "pair-wise distillation", with tokens for pixels.
    """
    ours, theirs = (_gram(unit(_tokens_only(states, valid))) for states in (student, teacher))
    return (ours - theirs).square().sum((1, 2)) / valid.sum(-1).square().clamp(min=1)


def _centred_gram(states: Tensor, valid: Tensor) -> Tensor:
    """``X X^T`` of Frobenius norm 1 over the valid tokens, zeros elsewhere: ``[batch, tokens, tokens]``."""
    states = _tokens_only(states, valid)
    mean = states.sum(1, keepdim=True) / valid.sum(-1).clamp(min=1)[:, None, None]
    centred = _tokens_only(states - mean, valid)
    spread = centred.square().sum((1, 2), keepdim=True) > ALIKE * states.square().sum((1, 2), keepdim=True)
    # Brought to length 1 twice: squares of squares of large activations leave the range of float32.
    centred = unit(centred * spread, dim=(1, 2))
    return unit(_gram(centred), dim=(1, 2))


def _gram(states: Tensor) -> Tensor:
    return states @ states.transpose(1, 2)


def _tokens_only(states: Tensor, valid: Tensor) -> Tensor:
    """Zeros in the place of padding."""
    return precise(states).masked_fill(~valid[..., None], 0.0)
