"""What a distillation step costs over the work that cannot be avoided.

    python benchmarks/step_cost.py
    python benchmarks/step_cost.py --repeats 15 --shapes 16x128 4x512 --json step_cost.json

The floor is the teacher's forward pass and the student's forward, backward, clipping and AdamW, with SDPA in both and
no loss but the mean of the logits. Over it:

- ours: DistillationTrainer, logits_kl + hidden_states, and with attentions; logits_kl + minilm_v2;
- plain: a usual `compute_loss`: eager attention, `output_attentions` and `output_hidden_states`, mse_loss on the maps;
- textbrewer: its GeneralDistiller's loss, where installed (pip install textbrewer==0.2.1.post1 tensorboard).

BERT with 12 layers teaches BERT with 6, both 384 wide with 12 heads; three layers are matched. Everything runs in
turns in one process. Figures are CPU-seconds (user and system, all threads) over the floor's of the same turn, median
of the turns. The batch has no padding, which is the dearest case.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from transformers import BertConfig, BertForSequenceClassification, TrainingArguments
from transformers.utils import logging

from distil_nlp import DistillationTrainer
from distil_nlp.objectives import Attentions, HiddenStates, LogitsKL, MiniLMv2, Objective

PAIRS = {2: 4, 4: 8, 6: 12}  # student block: teacher block
Step = Callable[[], None]


def bert(layers: int, attention: str) -> BertForSequenceClassification:
    torch.manual_seed(layers)
    config = BertConfig(
        hidden_size=384, intermediate_size=1536, num_attention_heads=12, num_hidden_layers=layers, num_labels=2
    )
    return BertForSequenceClassification._from_config(config, attn_implementation=attention)


def step_of(student: BertForSequenceClassification, loss: Callable[[], torch.Tensor]) -> Step:
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-5)

    def step() -> None:
        loss().backward()
        torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def floor(batch: dict[str, torch.Tensor]) -> Step:
    teacher, student = bert(12, "sdpa").eval(), bert(6, "sdpa").train()

    def loss() -> torch.Tensor:
        with torch.no_grad():
            teacher(**batch)
        return student(**batch).logits.mean()

    return step_of(student, loss)


def ours(batch: dict[str, torch.Tensor], attentions: bool) -> Step:
    features = [HiddenStates(mapping=PAIRS), *([Attentions(mapping=PAIRS)] if attentions else [])]
    return ours_with(batch, features)


def ours_with(batch: dict[str, torch.Tensor], features: list[Objective]) -> Step:
    student = bert(6, "sdpa").train()
    trainer = DistillationTrainer(
        student,
        teacher=bert(12, "sdpa"),
        objectives=[LogitsKL(temperature=4.0), *features],
        args=TrainingArguments(output_dir=tempfile.mkdtemp(), use_cpu=True, report_to=[]),
    )
    return step_of(student, lambda: trainer.compute_loss(student, batch))


def plain(batch: dict[str, torch.Tensor], attentions: bool) -> Step:
    attention = "eager" if attentions else "sdpa"
    teacher, student = bert(12, attention).eval(), bert(6, attention).train()
    wanted = {"output_hidden_states": True, "output_attentions": attentions}

    def loss() -> torch.Tensor:
        with torch.no_grad():
            t = teacher(**batch, **wanted)
        s = student(**batch, **wanted)
        kl = F.kl_div((s.logits / 4).log_softmax(-1), (t.logits / 4).softmax(-1), reduction="batchmean") * 16
        total = kl + sum(F.mse_loss(s.hidden_states[a], t.hidden_states[b]) for a, b in PAIRS.items()) / 3
        if attentions:
            total += sum(F.mse_loss(s.attentions[a - 1], t.attentions[b - 1]) for a, b in PAIRS.items()) / 3
        return total

    return step_of(student, loss)


def textbrewer(batch: dict[str, torch.Tensor], attentions: bool) -> Step:
    from textbrewer import DistillationConfig, GeneralDistiller, TrainingConfig

    attention = "eager" if attentions else "sdpa"
    teacher, student = bert(12, attention).eval(), bert(6, attention).train()
    matches = [
        {"layer_T": b, "layer_S": a, "feature": "hidden", "loss": "hidden_mse", "weight": 1} for a, b in PAIRS.items()
    ]
    if attentions:
        matches += [
            {"layer_T": b - 1, "layer_S": a - 1, "feature": "attention", "loss": "attention_mse", "weight": 1}
            for a, b in PAIRS.items()
        ]

    def adapt(_: object, output: object) -> dict[str, object]:
        return {"logits": output.logits, "hidden": output.hidden_states, "attention": output.attentions}  # type: ignore[attr-defined]

    folder = tempfile.mkdtemp()
    distiller = GeneralDistiller(
        TrainingConfig(output_dir=folder, log_dir=folder, device="cpu"),
        DistillationConfig(temperature=4, hard_label_weight=0, intermediate_matches=matches),
        teacher,
        student,
        adapt,
        adapt,
    )
    wanted = {"output_hidden_states": True, "output_attentions": attentions}
    return step_of(student, lambda: distiller.train_on_batch(batch, wanted)[0])


def cpu_seconds(step: Step) -> float:
    started = time.process_time()
    step()
    return time.process_time() - started


def measure(shape: str, repeats: int) -> dict[str, float]:
    rows, tokens = map(int, shape.split("x"))
    generator = torch.Generator().manual_seed(0)
    batch = {
        "input_ids": torch.randint(1000, 30000, (rows, tokens), generator=generator),
        "attention_mask": torch.ones(rows, tokens, dtype=torch.long),
    }
    steps = {"floor": floor(batch), "ours, logits and minilm_v2": ours_with(batch, [MiniLMv2()])}
    for name, make in {"ours": ours, "plain": plain, "textbrewer": textbrewer}.items():
        for attentions in (False, True):
            try:
                steps[f"{name}, {'with attentions' if attentions else 'logits and hidden'}"] = make(batch, attentions)
            except ImportError:
                print(f"{name} is not installed")
                break
    for step in steps.values():
        step()
    turns = [{name: cpu_seconds(step) for name, step in steps.items()} for _ in range(repeats)]
    return {name: statistics.median(turn[name] / turn["floor"] for turn in turns) for name in steps}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", default=["16x128", "4x512"], help="rows x tokens")
    parser.add_argument("--repeats", type=int, default=11)
    parser.add_argument("--json", help="also write the figures here")
    options = parser.parse_args()
    logging.set_verbosity_error()
    figures = {}
    for shape in options.shapes:
        figures[shape] = measure(shape, options.repeats)
        for name, ratio in figures[shape].items():
            print(f"{shape:>8}  {name:<30} {ratio:.3f}", flush=True)
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump(figures, file, indent=2)
