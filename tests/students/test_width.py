import copy

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from tiny_models import batch, tiny_model
from tiny_seq2seq import tiny_seq2seq
from torch import nn
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM

from distil_nlp.errors import ModelError
from distil_nlp.students import build_student
from distil_nlp.students.sizes import Sizes

DECODERS = ("gpt2", "llama")
NARROWED = ("bert", "roberta", "distilbert", "electra", "albert", "modernbert", *DECODERS)
NEURONS = {"gpt2": 128}  # of the teachers; else 48
SMALLER = {"hidden_size": 24, "intermediate_size": 20}

# Independent of the library: what the rows (of Conv1D the columns) of each weight are, then what the other axis is.
HIDDEN, HEADS, SHARED, FUSED, NEURON, GATED = "hidden", "heads", "shared", "3 heads", "neurons", "2 neurons"
LAYOUT = {
    "bert": {
        "attention.self.query": (HEADS, HIDDEN),
        "attention.self.key": (HEADS, HIDDEN),
        "attention.self.value": (HEADS, HIDDEN),
        "attention.output.dense": (HIDDEN, HEADS),
        "intermediate.dense": (NEURON, HIDDEN),
        "output.dense": (HIDDEN, NEURON),
    },
    "modernbert": {
        "attn.Wqkv": (FUSED, HIDDEN),
        "attn.Wo": (HIDDEN, HEADS),
        "mlp.Wi": (GATED, HIDDEN),
        "mlp.Wo": (HIDDEN, NEURON),
    },
    "gpt2": {
        "attn.c_attn": (FUSED, HIDDEN),
        "attn.c_proj": (HIDDEN, HEADS),
        "mlp.c_fc": (NEURON, HIDDEN),
        "mlp.c_proj": (HIDDEN, NEURON),
    },
    "llama": {
        "self_attn.q_proj": (HEADS, HIDDEN),
        "self_attn.k_proj": (SHARED, HIDDEN),
        "self_attn.v_proj": (SHARED, HIDDEN),
        "self_attn.o_proj": (HIDDEN, HEADS),
        "mlp.gate_proj": (NEURON, HIDDEN),
        "mlp.up_proj": (NEURON, HIDDEN),
        "mlp.down_proj": (HIDDEN, NEURON),
    },
}


def teacher_of(family, **config):
    teacher = tiny_model(family, item_of(family), **config)
    if not teacher._can_set_attn_implementation():
        pytest.skip("an early version of transformers, in which this model attends in its own way")
    return teacher


def item_of(family):
    return "next_token" if family in DECODERS else "masked"


def inputs(item="masked", **kw):
    return {name: batch(item, **kw)[name] for name in ("input_ids", "attention_mask")}


def blocks_of(model):
    return next(m for m in model.modules() if isinstance(m, nn.ModuleList) and len(m) == 4)


def weights(block, family):
    """``(weight as [out, in], bias, rows, columns)`` of each linear layer of a block."""
    for name, (rows, columns) in LAYOUT[family].items():
        module = block.get_submodule(name)
        weight = module.weight.T if family == "gpt2" else module.weight
        yield weight, module.bias, rows, columns


@pytest.mark.parametrize("family", NARROWED)
@pytest.mark.parametrize("batches", [None, [inputs()]], ids=["by_weights", "by_activations"])
def test_a_student_with_nothing_removed_is_the_teacher(family, batches):
    teacher = teacher_of(family)
    student = build_student(
        teacher, hidden_size=32, num_heads=4, intermediate_size=NEURONS.get(family, 48), batches=batches
    )
    torch.testing.assert_close(student(**inputs()).logits, teacher(**inputs()).logits, rtol=0, atol=0)


@pytest.mark.parametrize("family", NARROWED)
def test_narrower_students_load_plainly_and_leave_the_teacher_alone(family, tmp_path):
    teacher = teacher_of(family).train()
    before, config = copy.deepcopy(teacher.state_dict()), teacher.config.to_json_string()
    student = build_student(teacher, **SMALLER, batches=[inputs()]).eval()
    assert Sizes.of(student.config) == Sizes.of(teacher.config).replace(
        hidden=24, intermediate=20, **({} if family == "llama" else {"heads": 3, "key_value_heads": 3})
    )
    auto = AutoModelForCausalLM if family in DECODERS else AutoModelForMaskedLM
    student.save_pretrained(tmp_path)
    loaded = auto.from_pretrained(tmp_path)
    assert type(loaded) is type(teacher)
    torch.testing.assert_close(loaded(**inputs()).logits, student(**inputs()).logits)
    assert teacher.training
    assert teacher.config.to_json_string() == config
    assert teacher.config._attn_implementation == "sdpa"
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
    assert {p.data_ptr() for p in student.parameters()}.isdisjoint(p.data_ptr() for p in teacher.parameters())
    if family in DECODERS:
        ids = torch.tensor([[5, 6, 7]])
        assert student.generate(ids, max_new_tokens=3, min_new_tokens=3, do_sample=False).shape == (1, 6)


@pytest.mark.parametrize("family", LAYOUT)
@pytest.mark.parametrize("batches", [None, [inputs()]], ids=["by_weights", "by_activations"])
def test_dead_neurons_go_first_and_nothing_changes(family, batches):
    teacher, size = tiny_model(family, item_of(family)), NEURONS.get(family, 48)
    generator = torch.Generator().manual_seed(1)
    alive = []
    with torch.no_grad():
        for block in blocks_of(teacher):
            dead = torch.randperm(size, generator=generator)[:10]
            alive.append(sorted(set(range(size)) - set(dead.tolist())))
            for weight, bias, rows, columns in weights(block, family):
                if columns == NEURON:
                    weight[:, dead] = 0
                if rows in (NEURON, GATED):
                    rows_of_dead = torch.cat([dead, dead + size]) if rows == GATED else dead
                    weight[rows_of_dead] = 0
                    if bias is not None:
                        bias[rows_of_dead] = 0
    student = build_student(teacher, intermediate_size=size - 10, batches=batches)
    torch.testing.assert_close(student(**inputs()).logits, teacher(**inputs()).logits, rtol=0, atol=1e-5)
    for old, new, kept in zip(blocks_of(teacher), blocks_of(student), alive, strict=True):
        for before, after in zip(weights(old, family), weights(new, family), strict=True):
            if before[3] == NEURON:
                assert torch.equal(after[0], before[0][:, kept])


@pytest.mark.parametrize("batches", [None, [inputs()]], ids=["by_weights", "by_activations"])
def test_dead_groups_of_heads_go_first_and_nothing_changes(batches):
    teacher = tiny_model("llama", "next_token", num_attention_heads=8, head_dim=4, num_key_value_heads=4)
    with torch.no_grad():
        for block, dead in zip(blocks_of(teacher), ((2, 3), (0, 1), (3, 0), (1, 3)), strict=True):
            attention = block.self_attn
            for group in dead:
                for projection, width in ((attention.q_proj, 8), (attention.k_proj, 4), (attention.v_proj, 4)):
                    projection.weight[group * width : (group + 1) * width] = 0
                attention.o_proj.weight[:, group * 8 : (group + 1) * 8] = 0
    student = build_student(teacher, num_heads=4, batches=batches)
    assert (student.config.num_attention_heads, student.config.num_key_value_heads) == (4, 2)
    assert (student.config.head_dim, student.config.hidden_size) == (4, 32)
    torch.testing.assert_close(student(**inputs()).logits, teacher(**inputs()).logits, rtol=0, atol=1e-5)


@pytest.mark.parametrize("batches", [None, [inputs()]], ids=["by_weights", "by_activations"])
def test_dead_hidden_channels_go_first_and_only_the_norms_see_it(batches):
    teacher = tiny_model("llama", "next_token", rms_norm_eps=1e-12)
    dead = torch.tensor([0, 3, 7, 8, 15, 16, 30, 31])
    with torch.no_grad():
        teacher.model.embed_tokens.weight[:, dead] = 0
        teacher.lm_head.weight[:, dead] = 0
        for block in blocks_of(teacher):
            for weight, _, rows, columns in weights(block, "llama"):
                if rows == HIDDEN:
                    weight[dead] = 0
                if columns == HIDDEN:
                    weight[:, dead] = 0
        norms = [m for m in teacher.modules() if type(m).__name__ == "LlamaRMSNorm"]
        for norm in norms:
            norm.weight[dead] = 0
    student = build_student(teacher, hidden_size=24, batches=batches)
    alive = [channel for channel in range(32) if channel not in dead.tolist()]
    assert torch.equal(student.model.embed_tokens.weight, teacher.model.embed_tokens.weight[:, alive])
    with torch.no_grad():  # the mean square is over 24 channels now, not over 32
        for norm in (m for m in student.modules() if type(m).__name__ == "LlamaRMSNorm"):
            norm.weight *= (32 / 24) ** 0.5
    torch.testing.assert_close(student(**inputs()).logits, teacher(**inputs()).logits, rtol=0, atol=1e-5)


def positions(kind, hidden, heads, neurons, size):
    """The rows or columns that stay, for what they are."""
    of_heads = [head * 8 + each for head in heads for each in range(8)]
    shared = [head * 8 + each for head in sorted({head // 2 for head in heads}) for each in range(8)]
    return {
        HIDDEN: hidden,
        HEADS: of_heads,
        SHARED: shared,
        FUSED: [part * 32 + each for part in range(3) for each in of_heads],
        NEURON: neurons,
        GATED: [part * size + each for part in range(2) for each in neurons],
    }[kind]


def kept_columns(old, new):
    """Which columns of a matrix another is made of."""
    return [next(at for at in range(old.shape[1]) if torch.equal(old[:, at], column)) for column in new.T]


@pytest.mark.parametrize("family", LAYOUT)
def test_every_weight_of_a_block_is_cut_at_the_same_channels_heads_and_neurons(family):
    teacher, size = teacher_of(family), NEURONS.get(family, 48)
    for parameter in teacher.parameters():
        nn.init.normal_(parameter, std=0.5)  # no two alike
    chosen = {"hidden_size": 16, "num_heads": 2, "intermediate_size": 20}
    student = build_student(teacher, **chosen, batches=[inputs()])
    assert all(
        getattr(Sizes.of(student.config), k) == v for k, v in (("hidden", 16), ("heads", 2), ("intermediate", 20))
    )
    hidden = kept_columns(teacher.get_input_embeddings().weight, student.get_input_embeddings().weight)
    assert len(set(hidden)) == 16
    seen_heads = set()
    for old, new in zip(blocks_of(teacher), blocks_of(student), strict=True):
        cut = list(zip(weights(old, family), weights(new, family), strict=True))
        heads = next(kept_columns(o[0][hidden], n[0])[::8] for o, n in cut if o[3] == HEADS)
        heads = [channel // 8 for channel in heads]
        neurons = next(kept_columns(o[0][hidden], n[0]) for o, n in cut if o[3] == NEURON)
        seen_heads.add(tuple(heads))
        for (weight, bias, rows, columns), (new_weight, new_bias, _, _) in cut:
            stay, across = (positions(kind, hidden, heads, neurons, size) for kind in (rows, columns))
            assert torch.equal(new_weight, weight[stay][:, across])
            assert bias is None or torch.equal(new_bias, bias[stay])
    assert len(seen_heads) > 1  # each block has a choice of its own
    if family == "llama":
        assert all(b == a + 1 and a % 2 == 0 for a, b in seen_heads)


def test_a_narrower_student_trains():
    student = build_student(tiny_model("bert", "example"), num_layers=2, hidden_size=16, batches=[inputs()]).train()
    optimizer, rows = torch.optim.AdamW(student.parameters(), lr=1e-2), batch("example")
    losses = []
    for _ in range(20):
        loss = student(**rows).loss
        optimizer.zero_grad()
        loss.backward()
        assert all(torch.isfinite(p.grad).all() for p in student.parameters() if p.grad is not None)
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 2


def test_width_goes_together_with_depth():
    teacher = tiny_model("bert", "example")
    student = build_student(teacher, layers=[2, 4], intermediate_size=20)
    assert (student.config.num_hidden_layers, student.config.intermediate_size) == (2, 20)
    narrow = build_student(teacher, intermediate_size=20)
    for kept, block in zip((1, 3), student.bert.encoder.layer, strict=True):
        twin = narrow.bert.encoder.layer[kept].state_dict()
        assert all(torch.equal(value, twin[name]) for name, value in block.state_dict().items())


def test_electra_and_opt_without_a_projection_stay_without_one():
    teacher = tiny_model("electra", "masked", embedding_size=32)
    student = build_student(teacher, hidden_size=16)
    assert (student.config.embedding_size, student.config.hidden_size) == (16, 16)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_is_float32_and_leaves_the_random_state_alone(dtype):
    teacher = tiny_model().to(dtype)
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    student = build_student(teacher, hidden_size=16, batches=[inputs()])
    assert torch.rand(1) == expected
    assert {p.dtype for p in student.parameters()} == {torch.float32}
    assert {p.dtype for p in teacher.parameters()} == {dtype}


def test_models_without_the_attention_interface_have_fewer_neurons_only():
    teacher = tiny_model("deberta-v2", "masked")
    assert build_student(teacher, intermediate_size=20).config.intermediate_size == 20
    with pytest.raises(ModelError, match=r"(?s)AttentionInterface.*intermediate_size only.*num_layers"):
        build_student(teacher, hidden_size=16)


def test_a_model_that_tells_channels_apart_in_its_code_is_refused():
    teacher = tiny_model("bert", "masked")
    scale = torch.linspace(1, 2, 32)
    teacher.bert.embeddings.register_forward_hook(lambda module, args, output: output * scale)
    with pytest.raises(ModelError, match=r"(?s)could not be told apart.*num_layers"):
        build_student(teacher, hidden_size=16)
    assert build_student(teacher, num_layers=2).config.hidden_size == 32


@pytest.mark.parametrize(
    ("family", "request_", "words"),
    [
        ("bert", {"hidden_size": 20}, r"(?s)times 8.*hidden_size=16.*multiple of 8 up to 32"),
        ("bert", {"hidden_size": 4}, "hidden_size=8"),
        ("bert", {"num_heads": 2}, "hidden_size=16"),
        ("bert", {"hidden_size": 16, "num_heads": 4}, "hidden_size=32"),
        ("bert", {"hidden_size": 64}, "1 to 32"),
        ("bert", {"intermediate_size": 0}, "1 to 48"),
        ("gpt2", {"intermediate_size": 129}, "1 to 128"),
        ("llama", {"num_heads": 3}, "multiple of 2 heads"),
        ("llama", {"num_heads": 8}, "1 to 4"),
        ("electra", {"hidden_size": 16}, "embeddings_project"),
        ("bert", {"hidden_size": 16, "batches": []}, "no batch"),
        ("bert", {"hidden_size": 16, "num_layers": 5}, "Ask for 1 to 4"),
    ],
)
def test_impossible_widths_are_refused_with_what_is_possible(family, request_, words):
    with pytest.raises(ModelError, match=words):
        build_student(tiny_model(family, item_of(family)), **request_)


def test_encoder_decoders_are_made_shallower_only():
    with pytest.raises(ModelError, match=r"(?s)encoder and a decoder.*num_layers"):
        build_student(tiny_seq2seq(), hidden_size=16)


def test_what_is_refused_leaves_the_teacher_as_it_was():
    teacher = tiny_model("bert", "masked").train()
    for request_ in ({"hidden_size": 20}, {"hidden_size": 16, "batches": []}):
        with pytest.raises(ModelError):
            build_student(teacher, **request_)
    assert teacher.training
    assert teacher.config._attn_implementation == "sdpa"
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in teacher.modules())


def test_what_a_configuration_refuses_is_said_before_anything_is_cut():
    config = tiny_model("llama", "next_token").config
    try:
        type(config)(**{**config.to_dict(), "hidden_size": 18})
    except StrictDataclassError:
        with pytest.raises(ModelError, match=r"\(18\) is not a multiple of the number of attention heads \(4\)"):
            build_student(tiny_model("llama", "next_token"), hidden_size=18)
    else:
        pytest.skip("this version of transformers allows it")
