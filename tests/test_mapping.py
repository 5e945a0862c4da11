import pytest

from distil_nlp.errors import ModelError, RecipeError
from distil_nlp.mapping import STRATEGIES, LayerMapping


@pytest.mark.parametrize(
    ("spec", "student", "teacher", "expected"),
    [
        ("uniform", 3, 6, [(1, 2), (2, 4), (3, 6)]),
        ("uniform", 6, 12, [(i, 2 * i) for i in range(1, 7)]),
        ("uniform", 5, 12, [(1, 2), (2, 5), (3, 7), (4, 10), (5, 12)]),
        ("uniform", 4, 4, [(1, 1), (2, 2), (3, 3), (4, 4)]),
        ("first", 3, 6, [(1, 1), (2, 2), (3, 3)]),
        ("last", 2, 6, [(1, 5), (2, 6)]),
        ("skip", 3, 6, [(1, 2), (2, 4), (3, 6)]),
        ("skip", 5, 12, [(1, 2), (2, 4), (3, 6), (4, 8), (5, 10)]),
        ("skip", 4, 6, [(1, 1), (2, 2), (3, 3), (4, 4)]),
        ("attention", 2, 3, [(1, 1), (1, 2), (1, 3), (2, 1), (2, 2), (2, 3)]),
        ("emd", 3, 2, [(1, 1), (1, 2), (2, 1), (2, 2), (3, 1), (3, 2)]),
        ({1: 3, -1: -1}, 3, 6, [(1, 3), (3, 6)]),
        ([[2, 4]], 3, 6, [(2, 4)]),
    ],
)
def test_pairs(spec, student, teacher, expected):
    assert LayerMapping(spec).resolve(student, teacher) == expected


def test_blocks_follow_those_that_they_were_made_from():
    assert LayerMapping("kept").resolve(3, 6, [1, 2, 6]) == [(1, 1), (2, 2), (3, 6)]
    for unknown in (None, [1, 2]):
        with pytest.raises(ModelError, match="made from"):
            LayerMapping("kept").resolve(3, 6, unknown)
    with pytest.raises(ModelError, match="teacher block 9"):  # of another teacher
        LayerMapping("kept").resolve(3, 6, [1, 2, 9])


@pytest.mark.parametrize("spec", ["unifrom", {}, [[1]], [["a", 2]], {"1": 2}])
def test_malformed_mappings_are_refused(spec):
    with pytest.raises(RecipeError):
        LayerMapping(spec)


@pytest.mark.parametrize("spec", [{4: 1}, {1: 7}, {0: 1}, {1: -7}])
def test_blocks_that_do_not_exist_are_refused(spec):
    with pytest.raises(ModelError, match="blocks, numbered 1 to"):
        LayerMapping(spec).resolve(3, 6)


@pytest.mark.parametrize("spec", ["uniform", "first", "last", "skip"])
def test_a_deeper_student_needs_explicit_pairs(spec):
    with pytest.raises(ModelError, match="explicitly"):
        LayerMapping(spec).resolve(8, 6)


def test_pairs_that_are_to_be_chosen_are_asked_for():
    with pytest.raises(ModelError, match="choose_layers"):
        LayerMapping("cka").resolve(3, 6)


def test_which_are_learned_and_which_are_chosen():
    assert [name for name in STRATEGIES if LayerMapping(name).weighted] == ["attention", "emd"]
    assert [name for name in STRATEGIES if LayerMapping(name).to_be_chosen] == ["cka"]
    assert not LayerMapping({1: 1}).weighted
