"""What a distillation step over a large vocabulary costs: memory, and CPU time.

    python benchmarks/vocabulary.py                     # 4 x 1024 tokens, 151,936 words
    python benchmarks/vocabulary.py --task masked       # 16 x 128 tokens, 30,522 words, 15 % masked

The first is GPT-2, 4 layers to 2, 256 wide; the second BERT, 12 layers to 6, 384 wide.
`plain` runs both models to the end and compares whole logits, as most distillation code does; `ours` is
DistillationTrainer's step, which runs the vocabulary head at the items only, a few at a time. Each figure comes from a
process of its own: CPU-seconds of a step (user and system, all threads; median), and by how much the process's
peak memory grew during the steps. Gradients of both are compared.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from transformers import BertConfig, BertForMaskedLM, GPT2Config, GPT2LMHeadModel, PreTrainedModel, TrainingArguments
from transformers.utils import logging

from distil_nlp import DistillationTrainer
from distil_nlp.objectives import LogitsKL, TaskLoss

Batch = dict[str, torch.Tensor]


def model(task: str, layers: int) -> PreTrainedModel:
    torch.manual_seed(layers)
    if task == "masked":
        sizes = {"hidden_size": 384, "intermediate_size": 1536, "num_attention_heads": 12}
        return BertForMaskedLM(BertConfig(**sizes, num_hidden_layers=layers))
    return GPT2LMHeadModel(GPT2Config(vocab_size=151_936, n_embd=256, n_layer=layers, n_head=4))


def batch_for(task: str) -> Batch:
    torch.manual_seed(0)
    rows, tokens, vocabulary = (16, 128, 30_522) if task == "masked" else (4, 1024, 151_936)
    ids = torch.randint(1, vocabulary, (rows, tokens))
    labels = ids.masked_fill(torch.rand(ids.shape) > 0.15, -100) if task == "masked" else ids
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}


def plain_loss(student: PreTrainedModel, teacher: PreTrainedModel, batch: Batch, task: str) -> torch.Tensor:
    output = student(**batch)
    inputs = {name: value for name, value in batch.items() if name != "labels"}
    with torch.no_grad():
        theirs = teacher(**inputs).logits
    ours, labels = output.logits, batch["labels"]
    if task == "causal":
        ours, theirs, labels = ours[:, :-1], theirs[:, :-1], labels[:, 1:]
    keep = labels != -100
    soft = F.kl_div(
        F.log_softmax(ours[keep] / 2, -1), F.log_softmax(theirs[keep] / 2, -1), log_target=True, reduction="sum"
    )
    return 0.5 * output.loss + 0.5 * soft * 4 / keep.sum()


def measure(variant: str, task: str, repeats: int) -> dict[str, object]:
    """Runs in a process of its own."""
    logging.set_verbosity_error()
    depth = 6 if task == "masked" else 2
    student, teacher, batch = model(task, depth).train(), model(task, 2 * depth).eval(), batch_for(task)
    for module in student.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    if variant == "ours":
        with tempfile.TemporaryDirectory() as folder:
            arguments = TrainingArguments(folder, report_to="none", use_cpu=True)
            terms = [TaskLoss(weight=0.5), LogitsKL(weight=0.5)]
            trainer = DistillationTrainer(model=student, teacher=teacher, objectives=terms, args=arguments)
        loss = lambda: trainer.compute_loss(student, batch)  # noqa: E731
    else:
        loss = lambda: plain_loss(student, teacher, batch, task)  # noqa: E731
    before, seconds = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, []
    for _ in range(repeats):
        student.zero_grad()
        start = time.process_time()
        loss().backward()
        seconds.append(time.process_time() - start)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    gradient = torch.cat([p.grad.flatten()[:2000] for p in student.parameters() if p.grad is not None])
    return {"cpu_s": statistics.median(seconds), "extra_mb": grown / 1024, "gradient": gradient.tolist()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", choices=("causal", "masked"), default="causal")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--variant", choices=("plain", "ours"), help=argparse.SUPPRESS)
    parser.add_argument("--json", type=Path, help="also write the figures here")
    options = parser.parse_args()
    if options.variant:
        print(json.dumps(measure(options.variant, options.task, options.repeats)))
        return
    found = {}
    for variant in ("plain", "ours"):
        command = [
            sys.executable,
            __file__,
            "--variant",
            variant,
            "--task",
            options.task,
            "--repeats",
            str(options.repeats),
        ]
        found[variant] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    gradients = [torch.tensor(figures.pop("gradient")) for figures in found.values()]
    difference = (gradients[0] - gradients[1]).abs().max() / gradients[0].abs().max()
    for variant, figures in found.items():
        print(
            f"{variant:6} {figures['cpu_s']:8.2f} CPU-seconds a step   {figures['extra_mb']:8.0f} MB more at the peak"
        )
    ratios = {name: found["ours"][name] / found["plain"][name] for name in ("cpu_s", "extra_mb")}
    print(f"ours / plain: CPU time {ratios['cpu_s']:.2f}, memory {ratios['extra_mb']:.2f}")
    print(f"gradients differ by {difference:.1e} of the largest")
    if options.json:
        options.json.write_text(
            json.dumps({**found, "ratios": ratios, "gradients_differ_by": float(difference)}, indent=1)
        )


if __name__ == "__main__":
    main()
