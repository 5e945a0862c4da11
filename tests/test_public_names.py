"""What ``from distil_nlp import ...`` offers."""

import subprocess
import sys

import pytest

import distil_nlp


def test_every_name_can_be_imported_and_is_offered():
    assert sorted(distil_nlp.__all__) == sorted(distil_nlp._WHERE)
    for name in distil_nlp.__all__:
        assert getattr(distil_nlp, name).__name__ == name
        assert name in dir(distil_nlp)


def test_an_unknown_name_is_an_error():
    with pytest.raises(AttributeError, match="no attribute 'build_studnt'"):
        distil_nlp.build_studnt  # noqa: B018 - the access is the test


def test_the_package_itself_imports_nothing_heavy():
    code = "import sys, distil_nlp; dir(distil_nlp); print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
