"""What an epoch on a teacher's stored outputs costs over plain fine-tuning of the same student.

    OMP_NUM_THREADS=1 python benchmarks/stored_teacher.py
    python benchmarks/stored_teacher.py --shape 4x512 --steps 8 --repeats 9 --json stored_teacher.json

- plain: transformers' own Trainer on the labels;
- stored: DistillationTrainer with task_loss and logits_kl, every row found in the store;
- live: the same with the teacher itself (in the first turn alone; --live-repeats for more).

BERT with 12 layers teaches BERT with 6, both 384 wide with 12 heads; rows are shuffled and have no padding. Figures are
CPU-seconds (user and system, all threads) of one `train()` over one epoch, in turns in one process, over plain's of the
same turn; the median of the turns, and all of them. Last comes the time of reading one batch, alone.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable

import torch
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments, default_data_collator
from transformers.utils import logging

from distil_nlp import DistillationTrainer
from distil_nlp.objectives import LogitsKL, TaskLoss
from distil_nlp.signals import Needs
from distil_nlp.teachers import StoredTeacher

LABELS = 2


def bert(layers: int) -> BertForSequenceClassification:
    torch.manual_seed(layers)
    config = BertConfig(
        hidden_size=384,
        intermediate_size=1536,
        num_attention_heads=12,
        num_hidden_layers=layers,
        num_labels=LABELS,
        max_position_embeddings=1024,
    )
    return BertForSequenceClassification(config)


def rows_of(count: int, tokens: int) -> list[dict[str, object]]:
    ids = torch.randint(1000, 30000, (count, tokens), generator=torch.Generator().manual_seed(0)).tolist()
    return [{"input_ids": each, "attention_mask": [1] * tokens, "labels": i % LABELS} for i, each in enumerate(ids)]


def epoch(make: Callable[..., Trainer], rows: list[dict[str, object]], batch_size: int) -> float:
    """CPU-seconds of one epoch of a student made for it."""
    arguments = TrainingArguments(
        output_dir=tempfile.mkdtemp(),
        per_device_train_batch_size=batch_size,
        num_train_epochs=1,
        save_strategy="no",
        logging_steps=20,
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
    )
    trainer = make(model=bert(6), args=arguments, train_dataset=rows, data_collator=default_data_collator)
    started = time.process_time()
    trainer.train()
    return time.process_time() - started


def distilled(teacher: object) -> Callable[..., Trainer]:
    def make(**arguments: object) -> Trainer:
        return DistillationTrainer(teacher=teacher, objectives=[TaskLoss(), LogitsKL(temperature=2.0)], **arguments)

    return make


def measure(options: argparse.Namespace) -> dict[str, object]:
    batch_size, tokens = map(int, options.shape.split("x"))
    rows, teacher = rows_of(options.steps * batch_size, tokens), bert(12)
    stored = StoredTeacher(teacher, tempfile.mkdtemp())
    stored.fill(rows, default_data_collator, batch_size=batch_size, needs=Needs(logits=True))
    teacher.register_forward_pre_hook(ran := Ran())
    turns: dict[str, list[float]] = {"stored": [], "live": []}
    epoch(Trainer, rows[:batch_size], batch_size)  # what is done once in a process
    for turn in range(options.repeats):
        order = [("plain", Trainer), ("stored", distilled(stored))]
        before = ran.count
        seconds = {name: epoch(make, rows, batch_size) for name, make in (order if turn % 2 else order[::-1])}
        if ran.count != before:
            raise SystemExit("The teacher ran: not every row was found.")
        turns["stored"].append(seconds["stored"] / seconds["plain"])
        if turn < options.live_repeats:
            turns["live"].append(epoch(distilled(teacher), rows, batch_size) / seconds["plain"])
        print(f"turn {turn + 1}: " + ", ".join(f"{n} {v[-1]:.3f}" for n, v in turns.items() if v), flush=True)
    batch = default_data_collator(rows[:batch_size])
    started = time.process_time()
    for _ in range(200):
        stored(batch, Needs(logits=True))
    reading_ms = (time.process_time() - started) / 200 * 1e3
    medians = {name: statistics.median(values) for name, values in turns.items() if values}
    return {"shape": options.shape, "medians": medians, "turns": turns, "reading_ms_per_batch": reading_ms}


class Ran:
    """Counts forward passes."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, *_: object) -> None:
        self.count += 1


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="16x128", help="rows x tokens of a batch")
    parser.add_argument("--steps", type=int, default=4, help="batches in an epoch")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--live-repeats", type=int, default=1)
    parser.add_argument("--json", help="also write the figures here")
    options = parser.parse_args()
    logging.set_verbosity_error()
    figures = measure(options)
    print(json.dumps({name: value for name, value in figures.items() if name != "turns"}, indent=2))
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump(figures, file, indent=2)
