"""docs/reference.md is what the functions' comments say, and their examples run."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tools"))

from make_reference import public_functions  # noqa: E402

FUNCTIONS = public_functions()
TEXT = (ROOT / "docs" / "reference.md").read_text()


def test_it_is_up_to_date():
    command = [sys.executable, str(ROOT / "tools" / "make_reference.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", FUNCTIONS)
def test_each_function_has_its_page(name):
    section = re.search(rf"^### {name}\n(.*?)(?=^### |^## |\Z)", TEXT, re.M | re.S)
    assert section
    assert f"\n{name}(" in section[1]
    arguments = re.findall(r"^    (\w+) ", FUNCTIONS[name].signature.partition("\nreturns ")[0], re.M)
    if name not in {"queue_put_many", "queue_bury"}:  # which refer to another page for some of theirs
        assert [argument for argument in arguments if f"**{argument}**" not in section[1]] == []
    assert "eturns" in section[1]
    assert f"- [{name}](#{name}): " in TEXT


@pytest.mark.parametrize("name", FUNCTIONS)
def test_errors_are_told_where_names_are_checked(name):
    if "queue" in FUNCTIONS[name].signature.partition("\nreturns ")[0].replace(name, ""):
        assert "Errors: " in FUNCTIONS[name].comment


@pytest.mark.parametrize("name", FUNCTIONS)
def test_its_examples_run(database, name, roles):
    roles.make("web", "monitoring")
    examples = FUNCTIONS[name].examples
    assert examples
    for example in examples:
        done = subprocess.run(
            [database.server.programs / "psql", "-X", "-v", "ON_ERROR_STOP=1", database.dsn],
            input=example,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        assert name in example


def test_the_comment_in_the_database_is_the_same(conn):
    found = dict(
        conn.execute(
            r"select proname::text, btrim(obj_description(oid), e'\n') from pg_proc where proname like 'queue\_%'"
        ).fetchall()
    )
    assert found == {name: function.comment for name, function in FUNCTIONS.items()}
