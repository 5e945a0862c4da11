"""Rows of a group come side by side: the batches, and the loss of the whole trainer against a loop over groups."""

from __future__ import annotations

import collections
import copy
import itertools
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file
from test_trainer import NO_DROPOUT, collate
from tiny_models import VOCAB, tiny_model
from tiny_training import few_steps

from distil_nlp.errors import ModelError
from distil_nlp.objectives import LogitsMSE, MarginMSE
from distil_nlp.training import DistillationTrainer
from distil_nlp.training.groups import GroupBatchSampler

HERE = Path(__file__).parent
GROUPS = [7, 5, 7, 9, 5, 7, 3, 8, 3, 8, 8, 8, 2, 2, 2, 2]  # of 3, 2, 1, 2, 4 and 4 rows
TWO = [group for group, size in enumerate([4, 3, 2, 2, 1] * 4) for _ in range(size)]  # twelve batches of four


class Rows:
    """Collates, and notes which rows were in each batch, by their first token."""

    def __init__(self):
        self.seen = []

    def __call__(self, features):
        self.seen.append([int(feature["input_ids"][0]) - 5 for feature in features])
        return collate([{k: torch.as_tensor(v) for k, v in feature.items()} for feature in features])


def ranked_rows(groups=GROUPS):
    dice = np.random.default_rng(0)
    lengths = dice.integers(2, 9, len(groups))
    ids = [[row + 5, *dice.integers(5, VOCAB, length).tolist()] for row, length in enumerate(lengths)]
    return Dataset.from_dict(
        {
            "input_ids": ids,
            "attention_mask": [[1] * len(each) for each in ids],
            "labels": dice.normal(size=len(groups)).astype(np.float32),
            "group": list(groups),
        }
    )


def group_trainer(folder, *, collator=None, terms=None, rows=None, **arguments):
    return DistillationTrainer(
        model=tiny_model(seed=1, hidden_size=16, num_labels=1, **NO_DROPOUT),
        teacher=tiny_model(seed=2, num_labels=1),
        objectives=[MarginMSE(weight=0.5)] if terms is None else terms,
        args=few_steps(folder, **{"per_device_train_batch_size": 4, **arguments}),
        train_dataset=ranked_rows() if rows is None else rows,
        eval_dataset=ranked_rows(),
        data_collator=collator or Rows(),
    )


def epoch_of(sampler, epoch):
    sampler.set_epoch(epoch)
    return list(sampler)


# ---- the batches ----


@pytest.mark.parametrize("room", [4, 5, 7, 16])
@pytest.mark.parametrize("seed", range(3))
def test_batches_hold_whole_groups_side_by_side(room, seed):
    groups = np.random.default_rng(seed).integers(0, 40, 100) * 11
    groups = np.array([group for group in groups if (groups == group).sum() <= room])
    sampler = GroupBatchSampler(groups, room, seed=seed)
    epochs = [epoch_of(sampler, epoch) for epoch in range(4)]
    for batches in epochs:
        assert len(batches) == len(sampler)
        assert sorted(row for batch in batches for row in batch) == list(range(len(groups)))
        assert max(map(len, batches)) <= room
        for batch in batches:
            found = groups[batch].tolist()
            runs = 1 + sum(a != b for a, b in itertools.pairwise(found))
            assert runs == len(set(found))  # side by side
        assert sum(len(set(groups[batch])) for batch in batches) == len(set(groups))  # whole
    assert epochs[0] != epochs[1] != epochs[2]
    again = GroupBatchSampler(groups, room, seed=seed)
    assert epoch_of(again, 3) == epochs[3]
    assert epoch_of(GroupBatchSampler(groups, room, seed=seed + 1), 3) != epochs[3]


def test_groups_that_share_a_batch_are_drawn_anew():
    sampler = GroupBatchSampler(np.repeat(np.arange(64), 2), 4, seed=0)
    pairs = [{frozenset(row // 2 for row in batch) for batch in epoch_of(sampler, epoch)} for epoch in range(2)]
    assert len(sampler) == 32
    assert len(pairs[0] & pairs[1]) < 8


@pytest.mark.parametrize(("sizes", "room", "batches"), [([2] * 50, 16, 7), ([8] * 6, 16, 3), ([3, 5] * 10, 8, 10)])
def test_batches_are_as_full_as_can_be(sizes, room, batches):
    assert len(GroupBatchSampler(np.repeat(np.arange(len(sizes)), sizes), room, seed=0)) == batches


def test_a_group_larger_than_a_batch_is_cut_into_even_parts_that_change():
    sampler = GroupBatchSampler(np.zeros(10, dtype=int), 4, seed=0)
    epochs = [epoch_of(sampler, epoch) for epoch in range(2)]
    for batches in epochs:
        assert sorted(map(len, batches)) == [3, 3, 4]
        assert sorted(row for batch in batches for row in batch) == list(range(10))
    assert {frozenset(batch) for batch in epochs[0]} != {frozenset(batch) for batch in epochs[1]}


def test_all_processes_have_as_many_batches():
    sampler = GroupBatchSampler(np.repeat(np.arange(5), 4), 4, seed=0, processes=4)
    batches = list(sampler)
    assert len(batches) == len(sampler) == 8
    assert batches[5:] == batches[:3]


# ---- the trainer ----


def scores(model, rows):
    found = []
    for row in rows:
        with torch.no_grad():
            found.append(model(input_ids=torch.tensor([row["input_ids"]])).logits[0, 0].item())
    return np.array(found)


def loss_by_loops(student, teacher, rows, parts):
    """The mean over rows of the mean over their partners, one row and one partner at a time."""
    gaps, values = scores(student, rows) - scores(teacher, rows), []
    for part in parts:
        for row in part:
            others = [other for other in part if other != row]
            values.append(sum((gaps[row] - gaps[other]) ** 2 for other in others) / max(len(others), 1))
    return 0.5 * sum(values) / len(values)


def members(groups=GROUPS):
    return [[row for row, group in enumerate(groups) if group == each] for each in sorted(set(groups))]


@pytest.mark.parametrize(("room", "accumulation"), [(16, 1), (4, 4), (5, 4), (7, 3)])
def test_the_loss_of_a_step_is_that_of_a_loop_over_groups(tmp_path, room, accumulation):
    trainer = group_trainer(tmp_path, per_device_train_batch_size=room, gradient_accumulation_steps=accumulation)
    student = copy.deepcopy(trainer.model)
    trainer.train()
    assert sorted(row for batch in trainer.data_collator.seen for row in batch) == list(range(16))
    expected = loss_by_loops(student, trainer.teacher.model, ranked_rows(), members())
    assert trainer.state.log_history[0]["margin_mse"] == pytest.approx(expected, rel=1e-5)


def test_a_group_that_was_cut_is_compared_within_its_parts(tmp_path):
    rows = ranked_rows([1] * 10)
    trainer = group_trainer(tmp_path, rows=rows, gradient_accumulation_steps=3)
    student = copy.deepcopy(trainer.model)
    trainer.train()
    expected = loss_by_loops(student, trainer.teacher.model, rows, trainer.data_collator.seen)
    assert trainer.state.log_history[0]["margin_mse"] == pytest.approx(expected, rel=1e-5)


def test_no_model_is_called_with_the_groups(tmp_path):
    trainer = group_trainer(tmp_path, eval_strategy="steps", eval_steps=1)
    given = collections.defaultdict(set)
    for name, model in (("student", trainer.model), ("teacher", trainer.teacher.model)):
        model.register_forward_pre_hook(
            lambda module, args, kwargs, name=name: given[name].update(kwargs), with_kwargs=True
        )
    trainer.train()
    assert given == {key: {"input_ids", "attention_mask"} for key in ("student", "teacher")}
    assert trainer.state.log_history[1]["eval_loss"] > 0


def test_rows_come_as_they_are_where_nobody_reads_the_groups(tmp_path):
    trainer = group_trainer(tmp_path, terms=[LogitsMSE()], max_steps=4)
    trainer.train()
    plain = group_trainer(tmp_path, terms=[LogitsMSE()], max_steps=4, rows=ranked_rows().remove_columns("group"))
    plain.train()
    assert trainer.data_collator.seen == plain.data_collator.seen
    assert any(len({GROUPS[row] for row in batch}) > 2 for batch in plain.data_collator.seen)


def test_an_order_that_was_asked_for(tmp_path):
    trainer = group_trainer(tmp_path, train_sampling_strategy="sequential", max_steps=4)
    trainer.train()
    assert trainer.data_collator.seen == [list(range(start, start + 4)) for start in range(0, 16, 4)]
    with pytest.raises(ModelError, match=r"train_sampling_strategy is 'group_by_length', which would scatter them"):
        group_trainer(tmp_path, train_sampling_strategy="group_by_length").train()


def test_groups_are_numbered(tmp_path):
    rows = ranked_rows()
    named = rows.remove_columns("group").add_column("group", [f"q{group}" for group in GROUPS])
    with pytest.raises(ModelError, match=r"(?s)same whole number.*string.*Number the groups"):
        group_trainer(tmp_path, rows=named).train()


def test_a_resumed_training_sees_the_same_batches(tmp_path):
    """In the second epoch, in the middle of it; and again from the end of the first."""
    whole = group_trainer(tmp_path, max_steps=8, save_strategy="steps", save_steps=1)
    whole.train()
    assert len(whole.data_collator.seen) == 8
    for step in (6, 4):
        resumed = group_trainer(tmp_path / "other", max_steps=8)
        resumed.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{step}"))
        assert resumed.data_collator.seen == whole.data_collator.seen[step:]
        for name, tensor in whole.model.state_dict().items():
            assert torch.equal(resumed.model.state_dict()[name], tensor), name


# ---- two processes ----

ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": os.pathsep.join([str(HERE), str(HERE.parent), os.environ.get("PYTHONPATH", "")]),
    "OMP_NUM_THREADS": "1",
    "CUDA_VISIBLE_DEVICES": "",
}


def launch(folder, out, *arguments):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command += [str(HERE / "launch_groups.py"), *map(str, (folder, out, *arguments))]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return load_file(out)


def seen(state, strategy, rank):
    return [state[name].tolist() for name in sorted(state) if name.startswith(f"{strategy}.seen.{rank}.")]


def test_two_processes_share_the_batches_and_resume_in_the_middle_of_an_epoch(tmp_path):
    """Of groups, and of rows of like length."""
    whole = launch(tmp_path, tmp_path / "whole", 9)  # six steps an epoch
    ours, theirs = (seen(whole, "random", rank)[:9] for rank in (0, 1))  # one more was collated
    one = GroupBatchSampler(np.array(TWO), 4, seed=42, processes=2)
    batches = [*epoch_of(one, 0), *epoch_of(one, 1)]
    assert (ours, theirs) == (batches[0:18:2], batches[1:18:2])
    resumed = launch(tmp_path / "other", tmp_path / "resumed", 9, tmp_path)
    for strategy in ("random", "group_by_length"):
        for rank in (0, 1):
            assert seen(resumed, strategy, rank) == seen(whole, strategy, rank)[8:], strategy
    for name, tensor in whole.items():
        if "weights" in name:
            torch.testing.assert_close(resumed[name], tensor, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("name", ["split_batches", "dispatch_batches"])
def test_batches_of_groups_are_not_cut_anew(tmp_path, name):
    with pytest.raises(ModelError, match=f"accelerator_config has '{name}'"):
        group_trainer(tmp_path, accelerator_config={name: True}).train()


class Listed(torch.utils.data.Dataset):
    def __init__(self, rows):
        self.rows = rows

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, at):
        return self.rows[at]


@pytest.mark.parametrize("kind", [list, Listed])
def test_rows_need_not_be_of_datasets(kind, tmp_path):
    plain, other = Rows(), Rows()
    group_trainer(tmp_path / "plain", collator=plain, max_steps=4).train()
    rows = kind([dict(row) for row in ranked_rows()])
    group_trainer(tmp_path / "other", collator=other, rows=rows, max_steps=4).train()
    assert other.seen == plain.seen


def test_a_stream_of_groups_is_refused_unless_it_is_to_be_read_as_it_comes(tmp_path):
    stream = ranked_rows().to_iterable_dataset()
    with pytest.raises(ModelError, match="They come as a stream"):
        group_trainer(tmp_path, rows=stream).train()
    group_trainer(tmp_path, rows=stream, train_sampling_strategy="sequential").train()
