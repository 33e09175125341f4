"""docs/faults.md: each row names a test, and there is such a test."""

from __future__ import annotations

import ast
import re

from conftest import ROOT

PAGE = ROOT / "docs" / "faults.md"
ROW = re.compile(r"^\| (?P<number>\d+) \|.*\| `(?P<file>test_\w+\.py)::(?P<name>test_\w+)` \|$")


def test_each_fault_names_a_test_that_exists():
    rows = [line for line in PAGE.read_text().splitlines() if re.match(r"\| \d", line)]
    found = [ROW.match(row) for row in rows]
    assert all(found), [row for row, match in zip(rows, found, strict=True) if match is None]
    assert {int(match["number"]) for match in found if match} == set(range(1, 33))
    for match in found:
        assert match is not None
        tree = ast.parse((ROOT / "tests" / match["file"]).read_text())
        functions = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
        assert match["name"] in functions, f"row {match['number']}: there is no {match['name']} in {match['file']}"
