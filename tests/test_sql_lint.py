"""What linters say of the SQL: plpgsql_check of functions' insides, squawk of all else. Both find planted faults."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import psycopg
import pytest
from checkout import ROOT
from sql_sessions import column

Connection = psycopg.Connection[Any]

# Not mistakes here:
# 42804, that a value is converted when it is assigned: what a session remembers is text, and 'infinity' is a time.
CONVERTED = "42804"
# 00000, VOLATILE that could be STABLE: a stable function reads with the snapshot of the statement that calls it, and
# these must see what was committed since then. What _queue_align executes, which can't be looked into, writes.
VOLATILE = {"_queue_align", "_queue_find", "_queue_names"}

FINDINGS = """
    select p.proname::text, c.sqlstate, c.lineno, c.level, c.message
    from pg_proc p
    join pg_language l on l.oid = p.prolang and l.lanname = 'plpgsql'
    cross join lateral plpgsql_check_function_tb(
        p.oid, other_warnings => true, extra_warnings => true, performance_warnings => true, security_warnings => true
    ) c
    where p.pronamespace = 'public'::regnamespace and p.proname ~ '^_?queue_'
"""


@pytest.fixture
def checked(conn: Connection) -> Connection:
    if "plpgsql_check" not in column(conn, "select name from pg_available_extensions"):
        pytest.fail("plpgsql_check is missing: install the package postgresql-15-plpgsql-check")
    conn.execute("create schema checks; create extension plpgsql_check schema checks")
    conn.execute("set search_path to public, checks")
    return conn


def findings(conn: Connection) -> list[Any]:
    return [
        row
        for row in conn.execute(FINDINGS).fetchall()
        if row[1] != CONVERTED and not (row[1] == "00000" and "VOLATILE" in row[4] and row[0] in VOLATILE)
    ]


@pytest.mark.on(15)
def test_plpgsql_check_finds_nothing(checked):
    assert findings(checked) == []


@pytest.mark.on(15)
def test_what_plpgsql_check_is_told_to_pass_over_is_still_there(checked):
    rows = checked.execute(FINDINGS).fetchall()
    assert {row[0] for row in rows if row[1] == "00000"} == VOLATILE
    assert CONVERTED in {row[1] for row in rows}


@pytest.mark.on(15)
@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("begin return (select colour from queue_job limit 1); end", 'column "colour" does not exist'),
        ("declare v_unused text; begin return 'x'; end", 'unused variable "v_unused"'),
        ("begin if now() > now() then return 'x'; end if; end", "control reached end of function without RETURN"),
        ("begin execute 'select ''' || queue || ''''; return 'x'; end", "text type variable is not sanitized"),
        ("begin return 'x'; return 'y'; end", "unreachable code"),
    ],
)
def test_plpgsql_check_finds_a_planted_fault(checked, body, said):
    checked.execute(f"create function queue_planted(queue text) returns text language plpgsql as $${body}$$")
    assert said in " ".join(row[4] for row in findings(checked))


def squawk(*paths: str | Path, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    program = Path(sys.executable).with_name("squawk")
    return subprocess.run(
        [program, "--config", ROOT / ".squawk.toml", "--reporter", "gcc", *paths],
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )


def test_squawk_finds_nothing():
    paths = sorted(path for folder in ("sql", "migrations") for path in (ROOT / folder).rglob("*.sql"))
    assert len(paths) > 50
    done = squawk(*(path.relative_to(ROOT) for path in paths))
    assert (done.returncode, done.stdout) == (0, ""), done.stdout


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("alter table queue_job add column note text not null;", "adding-required-field"),
        ("alter table queue_job rename column data to payload;", "renaming-column"),
        ("alter table queue_job alter column rank type bigint;", "changing-column-type"),
        ("drop function queue_put;", "ban-drop-function"),
        ("create tabel note (id bigint);", "syntax-error"),
    ],
)
def test_squawk_finds_a_planted_fault(tmp_path, text, rule):
    (tmp_path / "0002_planted.sql").write_text(text)
    done = squawk("0002_planted.sql", cwd=tmp_path)
    assert done.returncode == 1
    assert rule in done.stdout
