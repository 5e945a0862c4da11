"""Which sizes can change where families name, lay out or pad things in their own way; the others are refused."""

import pytest
import torch
from tiny_models import tiny_model
from torch.testing import assert_close
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification

from distil_nlp.errors import ModelError
from distil_nlp.students import build_student

_COMMON = {"vocab_size": 60, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
_HEADS = {"vocab_size": 60, "n_layer": 2, "n_head": 4}
CONFIGS = {
    "falcon": {**_COMMON, "ffn_hidden_size": 48},
    "xlnet": {**_HEADS, "d_model": 32, "d_inner": 48},
    "longformer": {**_COMMON, "intermediate_size": 48, "attention_window": 8, "max_position_embeddings": 64},
    "bloom": {**_HEADS, "hidden_size": 32},
    "mpt": {"vocab_size": 60, "d_model": 32, "n_layers": 2, "n_heads": 4},
    "mamba": {"vocab_size": 60, "hidden_size": 32, "num_hidden_layers": 2},
    "fnet": {"vocab_size": 60, "hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 48},
    "gemma4_text": {**_COMMON, "head_dim": 8, "global_head_dim": 16, "hidden_size_per_layer_input": 0},
    "convbert": {**_COMMON, "intermediate_size": 48, "embedding_size": 16},
    "mobilebert": {**_COMMON, "intermediate_size": 48, "embedding_size": 16, "intra_bottleneck_size": 16},
}
READERS = {  # of a block's neurons, and the layer that makes them
    "falcon": ("mlp.dense_4h_to_h", "mlp.dense_h_to_4h"),
    "xlnet": ("ff.layer_2", "ff.layer_1"),
    "longformer": ("output.dense", "intermediate.dense"),
}
BLOCKS = {"falcon": "transformer.h", "xlnet": "transformer.layer", "longformer": "longformer.encoder.layer"}


def teacher_of(family):
    decodes = family in ("falcon", "bloom", "mpt", "mamba", "gemma4_text")
    auto = AutoModelForCausalLM if decodes else AutoModelForSequenceClassification
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = auto.from_config(AutoConfig.for_model(family, **CONFIGS[family])).eval()
        for weight in model.parameters():
            weight.data.normal_(float(weight.dim() == 1), 0.3)
    return model


def kept_neurons(family, teacher, student):
    """Which of the teacher's each block has, by the columns that read them."""
    kept = []
    for before, after in zip(*(model.get_submodule(BLOCKS[family]) for model in (teacher, student)), strict=True):
        old, new = (block.get_submodule(READERS[family][0]).weight.T for block in (before, after))
        kept.append([next(at for at in range(48) if torch.equal(old[at], column)) for column in new])
    return kept


@pytest.mark.parametrize("family", READERS)
def test_neurons_without_effect_go(family):
    teacher = teacher_of(family)
    for number, block in enumerate(teacher.get_submodule(BLOCKS[family])):
        reader, maker = (block.get_submodule(name).weight for name in READERS[family])
        dead = torch.arange(number, 48, 2)
        reader.data[:, dead] = 0
        maker.data[dead] *= 1e-3
    student = build_student(teacher, intermediate_size=24)
    ids = torch.arange(5, 17).unsqueeze(0)
    with torch.no_grad():
        assert_close(student(ids).logits, teacher(ids).logits, rtol=1e-4, atol=1e-4)


ROWS = torch.randint(5, 60, (4, 10), generator=torch.Generator().manual_seed(0))  # Longformer adds 6 tokens


@pytest.mark.parametrize("family", READERS)
@pytest.mark.parametrize("lengths", [(10, 2, 3, 9), (10, 10, 10, 10), (4, 2, 3, 1)], ids=str)
def test_importance_is_that_of_each_text_alone(family, lengths):
    """By hand: each row by itself, without padding, so that neither padding nor the order of axes matters."""
    teacher = teacher_of(family)
    tokens = max(lengths)  # 4 x 4 cannot be told from its transpose
    batch = {"input_ids": ROWS[:, :tokens], "attention_mask": (torch.arange(tokens) < torch.tensor(lengths)[:, None])}
    batch["attention_mask"] = batch["attention_mask"].long()
    student = build_student(teacher, intermediate_size=20, batches=[batch])
    expected = []
    for block in teacher.get_submodule(BLOCKS[family]):
        seen, reader = [], block.get_submodule(READERS[family][0])
        hook = reader.register_forward_pre_hook(lambda module, args, seen=seen: seen.append(args[0]))
        total = torch.zeros(48)
        for row, length in zip(ROWS, lengths, strict=True):
            with torch.no_grad():
                teacher.base_model(row[None, :length])
            activations = seen.pop().reshape(-1, 48)[:length]  # [tokens, neurons]
            total += (activations.abs() * reader.weight.detach().norm(dim=0)).mean(dim=0).square()
        hook.remove()
        expected.append(total.topk(20).indices.sort().values.tolist())
    assert kept_neurons(family, teacher, student) == expected


@pytest.mark.parametrize(
    ("family", "request_", "reason"),
    [
        ("mamba", {"intermediate_size": 8}, "no num_attention_heads"),
        ("fnet", {"intermediate_size": 8}, "no num_attention_heads"),
        ("bloom", {"intermediate_size": 8}, "none of intermediate_size"),
        ("mpt", {"intermediate_size": 8}, "none of intermediate_size"),
        ("bloom", {"hidden_size": 16}, "AttentionInterface"),
        ("mpt", {"hidden_size": 16}, "AttentionInterface"),
        ("falcon", {"hidden_size": 16}, "AttentionInterface"),
        ("xlnet", {"hidden_size": 16}, "AttentionInterface"),
        ("gemma4_text", {"intermediate_size": 8}, "differ by block"),
    ],
)
def test_what_cannot_be_narrower_is_refused_for_its_own_reason(family, request_, reason):
    if reason == "differ by block" and not getattr(teacher_of(family).config, "is_heterogeneous", False):
        pytest.skip("this transformers has one size for all blocks")
    with pytest.raises(ModelError, match=rf"(?s){reason}.*num_layers"):
        build_student(teacher_of(family), **request_)


@pytest.mark.parametrize("family", ["electra", "convbert"])
def test_a_hidden_size_that_leaves_no_projection_is_named(family):
    teacher = tiny_model(family) if family == "electra" else teacher_of(family)
    with pytest.raises(ModelError, match="hidden_size other than 16, its embedding_size"):
        build_student(teacher, hidden_size=16)
    if family == "electra":
        assert build_student(teacher, hidden_size=24).config.hidden_size == 24


def test_a_projection_that_is_always_there_stays():
    student = build_student(tiny_model("albert"), hidden_size=16)
    assert student.albert.encoder.embedding_hidden_mapping_in.weight.shape == (16, 16)
