import numpy as np
import pytest
import torch

from distil_nlp.errors import ModelError
from distil_nlp.functional.token_relations import gram_difference, self_attention_relation, token_cka
from distil_nlp.signals import SelfAttention

# right padding, left padding, none, a gap
VALID = torch.tensor([[1, 1, 1, 0, 0, 0], [0, 0, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1], [1, 0, 1, 1, 0, 1]]).bool()


def states(width, seed, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(4, 6, width, generator=generator, dtype=torch.float64).add(0.7).to(dtype).requires_grad_()


def naive_cka(x, y):
    """The form with features, not Gram matrices."""
    x, y = x - x.mean(0), y - y.mean(0)
    covariance = np.linalg.norm(y.T @ x) ** 2
    return covariance / (np.linalg.norm(x.T @ x) * np.linalg.norm(y.T @ y))


def naive_gram(x, y):
    total = 0.0
    for i in range(len(x)):
        for j in range(len(x)):
            cosines = [a[i] @ a[j] / (np.sqrt(a[i] @ a[i]) * np.sqrt(a[j] @ a[j])) for a in (x, y)]
            total += (cosines[0] - cosines[1]) ** 2
    return total / len(x) ** 2


FORMS = [(token_cka, naive_cka), (gram_difference, naive_gram)]


@pytest.mark.parametrize(("form", "naive"), FORMS)
@pytest.mark.parametrize("teacher_width", [5, 9])
def test_values_equal_the_formula(form, naive, teacher_width):
    s, t = states(5, 1), states(teacher_width, 2)
    twin = [naive(s[b][VALID[b]].detach().numpy(), t[b][VALID[b]].detach().numpy()) for b in range(4)]
    np.testing.assert_allclose(form(s, t, VALID).detach().numpy(), twin, rtol=1e-10)


@pytest.mark.parametrize("form", [token_cka, gram_difference])
def test_gradcheck_and_no_gradient_in_padding(form):
    s, t = states(5, 1), states(9, 2)
    assert torch.autograd.gradcheck(lambda x: form(x, t.detach(), VALID), (s,))
    form(s, t.detach(), VALID).sum().backward()
    assert (s.grad[~VALID] == 0).all()


@pytest.mark.parametrize("form", [token_cka, gram_difference])
def test_what_stands_in_padding_does_not_matter(form):
    s, t = states(5, 1), states(9, 2)
    with torch.no_grad():
        before = form(s, t, VALID)
        s[~VALID], t[~VALID] = np.nan, np.inf
        torch.testing.assert_close(form(s, t, VALID), before, rtol=0, atol=0)


def test_cka_is_1_for_a_rotation_with_scale_and_shift_and_gram_0_for_a_rotation():
    s = states(5, 1).detach()
    rotation = torch.linalg.qr(torch.randn(5, 5, dtype=torch.float64))[0]
    wider = torch.nn.functional.pad(s @ rotation, (0, 3))
    torch.testing.assert_close(token_cka(s, 3 * wider + 2, VALID), torch.ones(4, dtype=torch.float64))
    torch.testing.assert_close(gram_difference(s, 3 * wider, VALID), torch.zeros(4, dtype=torch.float64))


@pytest.mark.parametrize("form", [token_cka, gram_difference])
@pytest.mark.parametrize("case", ["one token", "no token", "equal tokens", "zeros"])
def test_degenerate_examples_have_finite_gradients(form, case):
    s, t = states(5, 1, torch.float32), states(9, 2, torch.float32)
    valid = VALID.clone()
    with torch.no_grad():
        if case == "one token":
            valid[0] = torch.tensor([0, 0, 1, 0, 0, 0])
        elif case == "no token":
            valid[0] = False
        else:
            s[0] = s[0, 0] if case == "equal tokens" else 0.0
    values = form(s, t, valid)
    values.sum().backward()
    assert torch.isfinite(values).all()
    assert torch.isfinite(s.grad).all()
    if form is token_cka:
        assert values[0] == 0
        assert (s.grad[0] == 0).all()


def test_cka_stands_the_large_activations_of_language_models():
    s, t = states(5, 1), states(9, 2)
    with torch.no_grad():
        s[:, :, 0] *= 2e4
    torch.testing.assert_close(
        token_cka(s.float(), t.float(), VALID).double(), token_cka(s, t, VALID), rtol=1e-4, atol=0
    )


@pytest.mark.parametrize("form", [token_cka, gram_difference])
def test_bfloat16_gives_finite_float32(form):
    s = states(5, 1, torch.bfloat16)
    values = form(s, states(9, 2, torch.bfloat16), VALID)
    values.sum().backward()
    assert values.dtype == torch.float32
    assert torch.isfinite(values).all()
    assert torch.isfinite(s.grad).all()


def attention(heads=4, key_heads=2, head_width=6):
    generator = torch.Generator().manual_seed(0)
    sizes = (heads, key_heads, key_heads)
    query, key, value = (torch.randn(3, h, 5, head_width, generator=generator, dtype=torch.float64) for h in sizes)
    return SelfAttention(query, key, None, 0.1, True, value=value)


@pytest.mark.parametrize("of", ["query", "key", "value"])
@pytest.mark.parametrize("heads", [1, 3, 4, 8])
def test_a_relation_is_cut_from_the_heads_laid_side_by_side(of, heads):
    block = attention()
    got = self_attention_relation(block, of, heads=heads)
    vectors = getattr(block, of).numpy()
    width = 4 * 6 // heads
    for b in range(3):
        for i in range(5):
            repeated = [vectors[b, h * vectors.shape[1] // 4, i] for h in range(4)]  # each query head's own
            row = np.concatenate(repeated)
            for a in range(heads):
                np.testing.assert_array_equal(got.query[b, a, i].numpy(), row[a * width : (a + 1) * width])
    assert got.key is got.query
    assert got.scaling == pytest.approx(width**-0.5)
    assert got.causal
    assert got.mask is None


def test_relation_heads_must_divide_the_width():
    with pytest.raises(ModelError, match="24 wide, which 5 does not divide"):
        self_attention_relation(attention(), "value", heads=5)
