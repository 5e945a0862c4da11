"""What errors say."""

import pytest

from distil_nlp.errors import listed


@pytest.mark.parametrize(
    ("names", "expected"),
    [([], "nothing"), (["a"], "a"), (["a", "b"], "a, b"), (["a", "b", "c"], "a, b and 1 more")],
)
def test_names_are_listed_up_to_so_many(names, expected):
    assert listed(names, 2) == expected
