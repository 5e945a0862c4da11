"""Heads that call the decoder inside their base model, as OPT's does."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from tiny_models import VOCAB, batch
from transformers import AutoModelForCausalLM, OPTConfig, PreTrainedModel, TrainingArguments

from distil_nlp.capture import capture, has_plain_vocabulary_head
from distil_nlp.objectives import HiddenStates, LogitsKL, Objective, TaskLoss
from distil_nlp.signals import Needs
from distil_nlp.training import DistillationTrainer


def opt(num_hidden_layers: int = 3, seed: int = 0) -> PreTrainedModel:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        config = OPTConfig(
            vocab_size=VOCAB,
            hidden_size=32,
            word_embed_proj_dim=32,
            ffn_dim=48,
            num_hidden_layers=num_hidden_layers,
            num_attention_heads=4,
            max_position_embeddings=64,
            dropout=0.0,
            init_std=0.3,
            pad_token_id=0,
        )
        made: PreTrainedModel = AutoModelForCausalLM.from_config(config).eval()
        return made


def test_the_last_hidden_state_is_what_the_head_reads() -> None:
    model, made = opt(), batch("next_token")
    with torch.no_grad():
        expected = model(input_ids=made["input_ids"], attention_mask=made["attention_mask"], output_hidden_states=True)
        got = capture(model, made, Needs(logits=True, hidden_states=frozenset(range(4))))
        alone = capture(model, made, Needs(hidden_states=frozenset([3])))
    assert set(got.hidden_states) == {0, 1, 2, 3}
    for number, states in got.hidden_states.items():
        torch.testing.assert_close(states, expected.hidden_states[number])
    torch.testing.assert_close(alone.hidden_states[3], expected.hidden_states[3])


def test_the_vocabulary_head_is_run_at_the_items_alone() -> None:
    model, made = opt(), batch("next_token")
    assert has_plain_vocabulary_head(model)
    with torch.no_grad():
        seen = capture(model, made, Needs(vocabulary=True)).vocabulary
        logits = model(input_ids=made["input_ids"], attention_mask=made["attention_mask"]).logits
    assert seen is not None
    counted = made["labels"][:, 1:] != -100
    torch.testing.assert_close(seen.logits(slice(None)), logits[:, :-1][counted])


@pytest.mark.parametrize("features", [False, True])
def test_it_is_distilled(features: bool, tmp_path) -> None:
    """The loss is that of a plain loop over the predicted tokens."""
    student, teacher, made = opt(2, seed=1), opt(), batch("next_token")
    objectives: list[Objective] = [TaskLoss(weight=0.5), LogitsKL(weight=2.0, temperature=3.0)]
    trainer = DistillationTrainer(
        model=student,
        teacher=teacher,
        objectives=[*objectives, *([HiddenStates(mapping="last")] if features else [])],
        args=TrainingArguments(output_dir=str(tmp_path), report_to=[], use_cpu=True),
    )
    loss = trainer.compute_loss(student.train(), made)
    inputs = {name: made[name] for name in ("input_ids", "attention_mask")}
    with torch.no_grad():
        ours, theirs = (model(**inputs, output_hidden_states=True) for model in (student, teacher))
    total, count = 0.0, 0
    for row, labels in enumerate(made["labels"]):
        for place in range(1, len(labels)):
            if labels[place] != -100:
                z, q = ours.logits[row, place - 1], theirs.logits[row, place - 1]
                kl = F.kl_div((z / 3).log_softmax(-1), (q / 3).softmax(-1), reduction="sum")
                total += float(0.5 * F.cross_entropy(z, labels[place]) + 2.0 * 9 * kl)
                count += 1
    total /= count
    if features:
        real = made["attention_mask"].bool()
        pairs = ((1, 2), (2, 3))
        total += (
            sum(float(F.mse_loss(ours.hidden_states[a][real], theirs.hidden_states[b][real])) for a, b in pairs) / 2
        )
    assert loss.item() == pytest.approx(total, rel=1e-4)
