"""The types of the public API, as mypy --strict and pyright see them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import ROOT
from test_examples import with_node

EXAMPLE = (ROOT / "tests" / "typing_example.py").read_text()

# What is right in the example, and wrong so: of each kind of thing one.
PLANTED = [
    ("assert_type(queue.clear(), int)", "assert_type(queue.clear(), str)"),
    ("queue.put(1, moment, expected_at=moment, priority=1", 'queue.put(1, moment, expected_at=moment, priority="1"'),
    ('assert_type(eat("Cox"), JobId)', "assert_type(eat(1), JobId)"),
    ('assert_type(await eat("Cox", 2), JobId)', 'assert_type(await eat("Cox", "2"), JobId)'),
    ('assert_type(note("Cox"), JobId)', 'assert_type(note(queue.get_nowait(), "Cox"), JobId)'),
    ('assert_type(eat.call("Cox", 2), bytes)', 'assert_type(eat.call("Cox", 2), str)'),
    ("eat(1)  # type: ignore[arg-type]", 'eat("Cox")  # type: ignore[arg-type]'),
]

Checker = Callable[[str], str]

# Pyright is installed before its first test, over the network.
pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def mypy(tmp_path_factory: pytest.TempPathFactory) -> Checker:
    """What mypy says about a text."""
    folder = tmp_path_factory.mktemp("mypy")

    def check(text: str) -> str:
        (folder / "example.py").write_text(text)
        options = ["--strict", "--warn-unused-ignores", "--cache-dir", folder / "cache"]
        return run([sys.executable, "-m", "mypy", *options, "example.py"], folder, os.environ | {"MYPYPATH": str(ROOT)})

    return check


@pytest.fixture(scope="module")
def pyright(tmp_path_factory: pytest.TempPathFactory) -> Checker:
    """What pyright says about a text. It is a package of npm's."""
    folder = tmp_path_factory.mktemp("pyright")
    install = ["npm", "install", "--no-audit", "--no-fund", "--no-package-lock", "pyright@>=1.1.400"]
    done = subprocess.run(install, cwd=folder, env=with_node(), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    settings = {
        "include": ["example.py"],
        "extraPaths": [str(ROOT)],
        "pythonVersion": "3.11",
        "typeCheckingMode": "strict",
        "reportUnnecessaryTypeIgnoreComment": "error",
    }
    (folder / "pyrightconfig.json").write_text(json.dumps(settings))

    def check(text: str) -> str:
        (folder / "example.py").write_text(text)
        command = ["node", "node_modules/pyright/index.js", "--pythonpath", sys.executable]
        return run(command, folder, with_node())

    return check


def run(command: list[object], folder: Path, environment: dict[str, str]) -> str:
    done = subprocess.run([*map(str, command)], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    assert (done.returncode == 0) == (not wrong_lines(done.stdout)), done.stdout + done.stderr
    return done.stdout


def wrong_lines(said: str) -> set[int]:
    return {int(line) for line in re.findall(r"^ *\S+\.py:(\d+):(?:\d+ -)? error: ", said, re.M)}


@pytest.mark.parametrize("checker", ["mypy", "pyright"])
def test_the_public_types_are_what_the_example_says(checker, request):
    said = request.getfixturevalue(checker)(EXAMPLE)
    assert wrong_lines(said) == set(), said


@pytest.mark.parametrize("checker", ["mypy", "pyright"])
def test_a_wrong_type_is_noticed(checker, request):
    text, lines = EXAMPLE, set()
    for right, wrong in PLANTED:
        before, found, after = text.partition(right)
        assert found, right
        text = before + wrong + after
        lines.add(before.count("\n") + 1)
    said = request.getfixturevalue(checker)(text)
    assert wrong_lines(said) == lines, said


def test_the_package_is_marked_as_typed():
    assert (ROOT / "pgq_py" / "py.typed").exists()
