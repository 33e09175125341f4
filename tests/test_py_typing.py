"""The types of the public API, as mypy --strict sees them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

EXAMPLE = ROOT / "tests" / "typing_example.py"


def mypy(path: Path, cache: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--warn-unused-ignores", "--cache-dir", cache, path],
        cwd=ROOT,
        env={**os.environ, "MYPYPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("mypy")


def test_the_public_types_are_what_the_example_says(cache):
    done = mypy(EXAMPLE, cache)
    assert done.returncode == 0, done.stdout


def test_a_wrong_type_is_noticed(cache, tmp_path):
    wrong = tmp_path / "wrong.py"
    wrong.write_text(EXAMPLE.read_text().replace("assert_type(queue.clear(), int)", "assert_type(queue.clear(), str)"))
    done = mypy(wrong, cache)
    assert done.returncode == 1
    assert 'Expression is of type "int", not "str"' in done.stdout


def test_the_package_is_marked_as_typed():
    assert (ROOT / "pgq_py" / "py.typed").exists()
