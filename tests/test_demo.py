"""The demo: real processes, one of them killed, and a judgement that notices mistakes."""

from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path

import psycopg
import pytest
from conftest import ROOT, Database

from pgq_py import demo

FILES = 120


@pytest.mark.long
def test_every_file_is_done_once_though_a_worker_is_killed(
    database: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    assert demo.main(database.dsn, FILES) == 0
    out = capsys.readouterr().out
    assert "killed (SIGKILL) in the middle of" in out
    assert f"{FILES} of {FILES} files done" in out
    assert "jobs per second" in out
    assert "p50" in out
    conn = database.connect()
    assert conn.execute(f"select count(*), count(distinct path) from {demo.TABLE}").fetchone() == (FILES, FILES)
    (command,) = (line for line in out.splitlines() if "-m pgq_py.demo" in line)
    where = os.environ | {"PGQ_PY_DSN": database.dsn, "PYTHONPATH": str(ROOT)}
    shown = subprocess.run(shlex.split(command), env=where, capture_output=True, text=True, check=True).stdout
    assert len(shown.splitlines()) == 9
    # The results are kept until the next run, which works as the first one did.
    assert demo.main(database.dsn, FILES) == 0


@pytest.mark.long
def test_a_difference_fails_the_demo(
    database: Database, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = demo.examine

    def mistaken(path: Path) -> demo.Findings:
        found = honest(path)
        return found._replace(lines=found.lines + 1) if path.name == victim else found

    victim = Path(demo.source_files(demo.library(), FILES)[7]).name
    # Here only: the workers are processes of their own.
    monkeypatch.setattr(demo, "examine", mistaken)
    assert demo.main(database.dsn, FILES) == 1
    error = capsys.readouterr().err
    assert victim in error
    assert "lines is" in error
    assert "The demo failed" in error


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ("delete from {table} where path = 'b.py'", "b.py is missing"),
        ("insert into {table} select * from {table} where path = 'b.py'", "b.py was done 2 times"),
        ("update {table} set path = 'x.py' where path = 'b.py'", "x.py was never put"),
        ("update {table} set sha256 = 'x' where path = 'a.py'", "a.py: sha256 is x in the table"),
        ("update {table} set imports = '{{sys}}' where path = 'a.py'", "a.py: imports is ['sys'] in the table"),
        ("update {table} set unreadable = null where path = 'c.py'", "c.py: unreadable is None in the table"),
        ("update {table} set taken_at = schedule_at - interval '1s' where path = 'a.py'", "a.py was taken 0:00:01"),
        ("update {table} set begun_at = now() + interval '1 day' where path = 'b.py'", "before files of higher"),
        ("update {table} set worker = 1 where path = 'c.py'", "c.py was stored by worker 1"),
    ],
)
def test_the_judgement_sees(
    conn: psycopg.Connection[tuple[object, ...]], tmp_path: Path, change: str, sentence: str
) -> None:
    run = a_perfect_run(conn, tmp_path)
    assert list(demo.differences(conn, run)) == []
    conn.execute(change.format(table=demo.TABLE).encode())
    assert any(sentence in found for found in demo.differences(conn, run))


def a_perfect_run(conn: psycopg.Connection[tuple[object, ...]], root: Path) -> demo.Run:
    """Three files: a scheduled one, one of high priority, and one that no parser reads."""
    for name, text in (("a.py", "import os\nfrom . import x\n"), ("b.py", ""), ("c.py", "def (\n")):
        (root / name).write_text(text)
    conn.execute(f"create schema {demo.SCHEMA}".encode())
    conn.execute(demo.CREATE_TABLE.encode())
    about = (("a.py", 0, "1s", "2s"), ("b.py", demo.PRIORITY, None, "0s"), ("c.py", 0, None, "1s"))
    for path, priority, ahead, taken in about:
        conn.execute(
            f"insert into {demo.TABLE} values (%s, %s, %s, %s, %s, 1, %s, now(), now() + %s::interval, "
            "now() + %s::interval, now() + %s::interval, 2)".encode(),
            (path, *demo.examine(root / path), priority, ahead, taken, taken),
        )
    return demo.Run(root, ["a.py", "b.py", "c.py"], victim=1, held="c.py")


def test_imports_are_found_wherever_they_are(tmp_path: Path) -> None:
    blocks = ("try", "except E", "else", "finally", "for _ in f", "else", "with f", "def f()", "class C")
    text = "import os.path, sys\nfrom . import z\n"
    text += "".join(f"{block}:\n    from ..x{n} import y\n" for n, block in enumerate(blocks))
    text += "match f:\n    case 1:\n        if f:\n            import last\nf = lambda: 1\n"
    (tmp_path / "a.py").write_text(text)
    found = demo.examine(tmp_path / "a.py")
    assert found.imports == [".", *(f"..x{n}" for n in range(9)), "last", "os.path", "sys"]
    assert (found.lines, found.unreadable) == (25, None)


def test_only_one_demo_runs_in_a_database(database: Database, capsys: pytest.CaptureFixture[str]) -> None:
    demo.hold_alone(database.connect())
    assert demo.main(database.dsn, FILES) == 1
    assert "another demo is running" in capsys.readouterr().err
