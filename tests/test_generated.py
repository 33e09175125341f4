"""The synchronous package is what the generator makes of the asynchronous one."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """What the generator needs, to be touched."""
    for name in ("pgq_py", "tools"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def make_sync(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, root / "tools" / "make_sync.py", *arguments], cwd=root, capture_output=True, text=True
    )


def test_the_synchronous_package_is_up_to_date():
    done = make_sync(ROOT, "--check")
    assert done.returncode == 0, done.stdout


def test_a_touched_source_copy_or_stray_file_is_noticed_and_made_good(copy):
    assert make_sync(copy, "--check").returncode == 0
    source = copy / "pgq_py" / "_async" / "job.py"
    source.write_text(source.read_text() + "\n\nASYNC = 1\n")
    target = copy / "pgq_py" / "_sync" / "client.py"
    target.write_text(target.read_text() + "\n\nTOUCHED = 1\n")
    done = make_sync(copy, "--check")
    assert done.returncode == 1
    assert done.stdout.splitlines() == [
        "pgq_py/_sync/client.py is out of date: run make sync",
        "pgq_py/_sync/job.py is out of date: run make sync",
    ]
    assert "TOUCHED" in target.read_text()  # --check writes nothing
    assert make_sync(copy).returncode == 0
    assert make_sync(copy, "--check").returncode == 0
    assert "TOUCHED" not in target.read_text()
    stray = copy / "pgq_py" / "_sync" / "stray.py"
    stray.write_text("")
    assert make_sync(copy, "--check").returncode == 1


def test_nothing_asynchronous_is_left_in_the_synchronous_package():
    for path in (ROOT / "pgq_py" / "_sync").glob("*.py"):
        text = path.read_text()
        tree = ast.parse(text)
        asynchronous = (ast.AsyncFunctionDef, ast.AsyncWith, ast.AsyncFor, ast.Await)
        assert not [node for node in ast.walk(tree) if isinstance(node, asynchronous)], path
        names = [node.id for node in ast.walk(tree) if isinstance(node, ast.Name)]
        names += [node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)]
        assert not [name for name in names if "async" in name.lower()], path
        assert text.startswith("# Generated from pgq_py/_async"), path
