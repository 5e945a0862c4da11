"""Training under autocast, against the same under plain torch."""

import copy

import pytest
import torch
import torch.nn.functional as F
from test_trainer import NO_DROPOUT, collate, make_trainer, rows
from tiny_models import tiny_model

from distil_nlp.objectives import LogitsKL, TaskLoss

DROPOUT = {"bert": NO_DROPOUT, "gpt2": {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}}


@pytest.mark.parametrize(("family", "item"), [("bert", "masked"), ("gpt2", "next_token")])
def test_a_vocabulary_head_runs_in_bfloat16(tmp_path, family, item):
    """BERT's reads bfloat16 on a CPU, GPT-2's reads float32; either is cast, as by autocast."""
    student, teacher = tiny_model(family, item, seed=1, **DROPOUT[family]), tiny_model(family, item, seed=2)
    twin = copy.deepcopy(student).train()
    terms = [TaskLoss(), LogitsKL(temperature=1.0)]
    arguments = {"bf16": True, "max_grad_norm": 0, "train_sampling_strategy": "sequential"}
    trainer = make_trainer(tmp_path, item=item, student=student, teacher=teacher, terms=terms, **arguments)
    trainer.train_dataset = rows(item)
    assert trainer.needs[True][0].vocabulary
    trainer.train()
    made = collate(rows(item))
    inputs = {key: made[key] for key in ("input_ids", "attention_mask")}
    with torch.autocast("cpu", torch.bfloat16):
        ours = twin(**inputs).logits.float()
    with torch.no_grad():
        theirs = teacher(**inputs).logits
    labels = made["labels"]
    if item == "next_token":
        ours, theirs, labels = ours[:, :-1], theirs[:, :-1], labels[:, 1:]
    keep = labels != -100
    loss = F.cross_entropy(ours[keep], labels[keep])
    loss = loss + F.kl_div(ours[keep].log_softmax(-1), theirs[keep].softmax(-1), reduction="batchmean")
    loss.backward()
    torch.optim.SGD(twin.parameters(), lr=1e-2).step()
    log = trainer.state.log_history[0]
    assert log["loss"] == pytest.approx(loss.item(), rel=1e-6)  # not what float32 gives
    for name, tensor in twin.state_dict().items():
        torch.testing.assert_close(student.state_dict()[name], tensor, rtol=1e-3, atol=5e-5)
