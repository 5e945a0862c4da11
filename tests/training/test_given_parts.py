"""What a trainer is given: students, teachers, objectives and optimizers of all kinds."""

import pytest
import torch
from test_as_in_transformers import check_sums, trainer_of
from test_trainer import NO_DROPOUT, collate, rows
from tiny_models import batch, tiny_model
from tiny_run import build_tokenizer
from transformers import DataCollatorWithPadding, TrainingArguments

from distil_nlp.errors import ModelError, RecipeError
from distil_nlp.objectives import Attentions, HiddenStates, LogitsKL, TaskLoss
from distil_nlp.signals import Needs
from distil_nlp.teachers import EnsembleTeacher, StoredTeacher
from distil_nlp.training import DistillationTrainer, GradNorm, Linear, ScheduleCallback


def test_objectives_that_another_trainer_has_balanced_start_anew(tmp_path):
    used = [TaskLoss(), LogitsKL()]
    trainer_of(tmp_path, used, given={"weighting": GradNorm(every=1)}).train()
    assert used[0].balance != 1
    made = collate(rows())
    losses = [
        trainer.compute_loss(trainer.model.eval(), made).item()
        for trainer in (trainer_of(tmp_path, used), trainer_of(tmp_path, [TaskLoss(), LogitsKL()]))
    ]
    assert losses[0] == losses[1]


def test_a_schedule_of_an_objective_that_is_not_trained_under_is_refused(tmp_path):
    callback = ScheduleCallback(LogitsKL(), "weight", Linear(1.0, 0.0))
    with pytest.raises(RecipeError, match="logits_kl/weight was to follow"):
        trainer_of(tmp_path, [LogitsKL()], given={"callbacks": [callback]}).train()


def test_an_optimizer_need_not_hold_a_projection_that_is_frozen(tmp_path):
    student, features = tiny_model(seed=1, hidden_size=16, num_hidden_layers=2), HiddenStates(mapping={2: 4})
    optimizer = torch.optim.SGD(student.parameters(), lr=0.01)
    trainer = trainer_of(tmp_path, [features], student=student, given={"optimizers": (optimizer, None)})
    with pytest.raises(ModelError, match="must train the projections"):
        trainer.train()
    features.projection.requires_grad_(False)
    before = features.projection.layers[0].weight.clone()
    trainer.train()
    assert torch.equal(features.projection.layers[0].weight, before)


@pytest.mark.parametrize("given", [{}, {"model": None}, {"model": "made"}])
def test_a_student_that_is_made_anew_is_refused(tmp_path, given):
    if given.get("model"):
        given = {"model": tiny_model(seed=1)}
    with pytest.raises(ModelError, match="model_init"):
        DistillationTrainer(
            **given,
            model_init=lambda: tiny_model(seed=1),
            teacher=tiny_model(seed=2),
            objectives=[LogitsKL()],
            args=TrainingArguments(output_dir=str(tmp_path)),
        )


def test_reentrant_checkpoints_are_refused_however_they_come(tmp_path):
    checkpointing = {"gradient_checkpointing": True}
    for options in ({"use_reentrant": True}, {"preserve_rng_state": False}):  # torch's default is reentrant
        with pytest.raises(ModelError, match="use_reentrant=True"):
            trainer_of(tmp_path, gradient_checkpointing_kwargs=options, **checkpointing)
    student = tiny_model(seed=1, num_hidden_layers=2)
    student.gradient_checkpointing_enable({"use_reentrant": True})
    trainer = trainer_of(tmp_path, [Attentions(mapping={2: 4})], student=student)
    with pytest.raises(ModelError, match="run without one"):
        trainer.train()


@pytest.mark.parametrize("compiled_by", ["arguments", "user"])
def test_a_compiled_student_has_the_same_losses(tmp_path, compiled_by):
    def student():
        return tiny_model(seed=1, hidden_size=16, num_hidden_layers=1, **NO_DROPOUT)

    arguments, made = {"max_steps": 2}, student()
    losses = []
    for compiled in (False, True):
        if compiled and compiled_by == "arguments":
            made, arguments = student(), {**arguments, "torch_compile": True, "torch_compile_backend": "eager"}
        elif compiled:
            made = torch.compile(student(), backend="eager")
        trainer = trainer_of(tmp_path, [TaskLoss(), HiddenStates(mapping={1: 4})], student=made, **arguments)
        trainer.train()
        losses.append([log["loss"] for log in trainer.state.log_history if "loss" in log])
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)


def test_virtual_tokens_are_refused_where_tokens_are_compared(tmp_path):
    peft = pytest.importorskip("peft")

    def prompted(item):
        model = tiny_model("gpt2" if item == "next_token" else "bert", item, seed=1)
        task = "CAUSAL_LM" if item == "next_token" else "SEQ_CLS"
        return peft.get_peft_model(model, peft.PromptTuningConfig(task_type=task, num_virtual_tokens=2))

    with pytest.raises(ModelError, match="PROMPT_TUNING"):
        trainer_of(tmp_path, [HiddenStates()], student=prompted("example"))
    teacher = tiny_model("gpt2", "next_token", seed=2)
    with pytest.raises(ModelError, match="PROMPT_TUNING"):
        trainer_of(tmp_path, [LogitsKL()], student=prompted("next_token"), teacher=teacher)
    trainer = trainer_of(tmp_path, [LogitsKL()], student=prompted("example"), max_steps=1)
    trainer.train()
    check_sums(trainer)


@pytest.mark.parametrize(
    ("named", "given"),
    [
        (7, {"processing_class": build_tokenizer()}),
        (None, {"data_collator": DataCollatorWithPadding(build_tokenizer())}),
    ],
    ids=["another", "none"],
)
@pytest.mark.parametrize("kind", ["model", "stored", "ensemble"])
def test_a_teacher_reads_the_last_token_before_the_padding_that_rows_get(tmp_path, named, given, kind):
    model, made, needs = tiny_model("llama", pad_token_id=named), batch(), Needs(logits=True)
    valid = zip(made["input_ids"], made["attention_mask"].bool(), strict=True)
    alone = torch.cat([model(ids[mask][None]).logits for ids, mask in valid])
    teacher = model if kind == "model" else StoredTeacher(model, tmp_path)
    if kind == "stored" and named is not None:  # rows that are stored already, but read by other padding
        teacher.fill(range(4), lambda rows: {name: value[rows] for name, value in made.items()}, needs=needs)
    teacher = EnsembleTeacher([teacher]) if kind == "ensemble" else teacher
    trainer = trainer_of(tmp_path, [LogitsKL()], teacher=teacher, given=given)
    found, expected = (logits.log_softmax(-1) for logits in (trainer.teacher(made, needs).logits, alone))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
