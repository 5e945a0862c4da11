"""What a narrower student keeps: how parts are told apart, and which are taken to be important."""

import pytest
import torch
from tiny_models import batch, tiny_model
from torch import nn
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

from distil_nlp.errors import ModelError
from distil_nlp.students import build_student
from distil_nlp.students.axes import Units, check_axes, find_axes
from distil_nlp.students.importance import by_activations
from distil_nlp.students.sizes import smaller_sizes

INPUTS = {name: batch("masked")[name] for name in ("input_ids", "attention_mask")}


def test_importance_is_that_of_naive_loops_without_padding():
    model = tiny_model("bert", "masked")
    sizes = smaller_sizes(model.config, hidden_size=16, num_heads=None, intermediate_size=20)
    axes = find_axes(model, sizes)
    batches = [batch("masked", seed=seed, lengths=(12, 7, 9, 3)) for seed in (0, 1)]
    found = by_activations(model, axes, batches)

    seen = {"heads": [], "neurons": [], "channels": []}
    block = model.bert.encoder.layer[2]
    hooks = [
        block.attention.output.dense.register_forward_pre_hook(lambda _, args: seen["heads"].append(args[0])),
        block.output.dense.register_forward_pre_hook(lambda _, args: seen["neurons"].append(args[0])),
    ]
    norms = [m for n, m in model.bert.named_modules() if n.endswith("LayerNorm")]
    hooks += [norm.register_forward_hook(lambda *a: seen["channels"].append(a[2])) for norm in norms]
    for each in batches:
        model(input_ids=each["input_ids"], attention_mask=each["attention_mask"])
    for hook in hooks:
        hook.remove()
    masks = [each["attention_mask"] for each in batches]

    def expected(size_of, activations):
        total = 0.0
        for states, mask in zip(activations, masks, strict=True):
            for row, length in zip(states, mask.sum(dim=1).tolist(), strict=True):
                total += (sum(size_of(row[token]) for token in range(length)) / length) ** 2
        return float(total) ** 0.5

    inner, outer = block.output.dense.weight, block.attention.output.dense.weight
    for neuron in (0, 17, 47):
        value = expected(lambda x, u=neuron: abs(x[u].item()) * inner[:, u].norm().item(), seen["neurons"])
        assert found["bert.encoder.layer.2"][neuron].item() == pytest.approx(value, rel=1e-4)
    for head in range(4):
        part = slice(head * 8, head * 8 + 8)
        value = expected(lambda x, part=part: (outer[:, part] @ x[part]).norm().item(), seen["heads"])
        group = "bert.encoder.layer.2.attention.output.dense"
        assert found[group][head].item() == pytest.approx(value, rel=1e-4)
    assert len(norms) == 9
    per_norm = [seen["channels"][at :: len(norms)] for at in range(len(norms))]
    for channel in (0, 31):
        value = sum(expected(lambda x, c=channel: abs(x[c].item()), states) for states in per_norm)
        assert found[""][channel].item() == pytest.approx(value, rel=1e-4)


@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_channels_that_norms_silence_are_not_the_ones_kept(family):
    teacher = tiny_model(family, "next_token" if family == "gpt2" else "masked")
    loud = torch.tensor([1, 2, 5, 9, 12, 20, 25, 31])
    silent = [channel for channel in range(32) if channel not in loud.tolist()]
    with torch.no_grad():
        for norm in (m for m in teacher.modules() if isinstance(m, nn.LayerNorm)):
            norm.weight[silent] = norm.bias[silent] = 0
    student = build_student(teacher, hidden_size=8, batches=[INPUTS])
    old, new = (model.get_input_embeddings().weight for model in (teacher, student))
    assert torch.equal(new, old[:, loud])
    assert torch.isfinite(student(**INPUTS).logits).all()


def test_interleaved_projections_are_found_too():
    config = GPTNeoXConfig(
        vocab_size=64, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48, bos_token_id=0
    )
    teacher = GPTNeoXForCausalLM(config).eval()
    old = teacher.gpt_neox.layers[0].attention
    with torch.no_grad():  # heads 1 and 2 say nothing
        for layer in teacher.gpt_neox.layers:
            layer.attention.dense.weight[:, 8:24] = 0
    student = build_student(teacher, hidden_size=16, batches=[INPUTS])
    hidden = [
        next(at for at in range(32) if torch.equal(teacher.gpt_neox.embed_in.weight[:, at], column))
        for column in student.gpt_neox.embed_in.weight.T
    ]
    rows = [*range(24), *range(72, 96)]  # query, key and value of head 0, then of head 3
    new = student.gpt_neox.layers[0].attention.query_key_value.weight
    assert torch.equal(new, old.query_key_value.weight[rows][:, hidden])


def test_a_weight_that_was_overlooked_is_noticed():
    model = tiny_model("gpt2", "next_token")
    for parameter in model.parameters():
        nn.init.normal_(parameter)  # norms too
    sizes = smaller_sizes(model.config, hidden_size=16, num_heads=None, intermediate_size=None)
    axes = find_axes(model, sizes)
    check_axes(model, axes)
    heads = ("transformer.h.1.attn.c_attn.weight", 1)
    for wrong in (
        {key: units for key, units in axes.items() if key != ("transformer.h.0.ln_1.weight", 0)},
        {key: units for key, units in axes.items() if key != heads},
        {**axes, heads: Units("heads", axes[heads].group, torch.arange(96).view(4, 24))},  # not interleaved
    ):
        with pytest.raises(ModelError, match="could not be told apart"):
            check_axes(model, wrong)
