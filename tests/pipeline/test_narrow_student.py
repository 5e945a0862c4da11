"""A recipe's narrower student: the parts that are most active on training rows that the seed decides."""

from __future__ import annotations

import torch

from distil_nlp.build import Assembly
from distil_nlp.recipe import Recipe
from distil_nlp.students import build_student


def test_sizes_of_a_recipe_make_the_student(case, tmp_path):
    recipe = Recipe.load(case.recipe(tmp_path, student={"hidden_size": 16, "intermediate_size": 20}))
    parts = Assembly(recipe)
    teacher = parts.pretrained()
    student, again = parts.student(teacher), parts.student(teacher)
    config = student.config
    assert (config.num_hidden_layers, config.hidden_size, config.num_attention_heads) == (4, 16, 2)
    assert config.intermediate_size == 20
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in student.state_dict().items())
    rows = parts.rows["train"].shuffle(seed=recipe.seed)
    collate = parts.task.collator(parts.tokenizer)
    assert len(rows) < 256
    batches = [
        dict(collate([rows[at] for at in range(start, min(start + 16, len(rows)))]))
        for start in range(0, len(rows), 16)
    ]
    twin = build_student(teacher, hidden_size=16, intermediate_size=20, batches=batches)
    assert all(torch.equal(value, twin.state_dict()[name]) for name, value in student.state_dict().items())
    control = parts.control("pretrained", teacher)
    assert control.config.hidden_size == 16


def test_sizes_go_together_with_layers(case, tmp_path):
    recipe = Recipe.load(case.recipe(tmp_path, student={"layers": [1, 3], "intermediate_size": 20}))
    parts = Assembly(recipe)
    config = parts.student(parts.pretrained()).config
    assert (config.num_hidden_layers, config.hidden_size, config.intermediate_size) == (2, 32, 20)
