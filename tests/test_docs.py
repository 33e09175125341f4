"""What the documentation shows is run: each block of the pages in RUN, each new line of coming-from.md.

In Python and SQL a comment tells what a statement gives, and is compared:

    queue.count()  # => 3                       the value
    print(job.data)  # => Cox                   what is printed, its lines joined by blanks
    queue.get_nowait()  # raises Empty          the exception
    select queue_count('apples');  -- 3         a row, its columns joined by " | "; more rows follow as comments

A statement without such a comment has to run, no more. A block is not run only where a comment in the
Markdown names what runs it instead.
"""

from __future__ import annotations

import ast
import asyncio
import contextlib
import inspect
import io
import os
import re
import subprocess
import sys
import tempfile
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from conftest import ROOT, Database
from servers import Server

README = ROOT / "README.md"
COMING_FROM = ROOT / "docs" / "coming-from.md"

# How the documents name their database.
KEY_VALUE, URL = "dbname=example user=postgres", "postgresql://localhost/example"

# What coming-from.md may call missing, by what stands on the left.
NOT_YET, MISSING = "later release", ("Celery",)

BLOCK = re.compile(r"^(?:<!-- (?P<note>[^\n]*) -->\n)?```(?P<language>\w+)\n(?P<text>.*?)^```$", re.M | re.S)
WANTED = re.compile(r"#\s+(=>|raises)\s+(.*)$")
STATEMENT = re.compile(r"(?P<sql>.*?;)[ ]*(?P<rows>(?:--[^\n]*\n(?:[ ]*--[^\n]*\n)*)?)", re.S)


@pytest.fixture
def fresh(server: Server) -> Iterator[Database]:
    """An empty database: what the documents install into."""
    with psycopg.connect(server.dsn(), autocommit=True) as conn:
        conn.execute("drop database if exists documented with (force)")
        conn.execute("create database documented template template0")
        yield Database(server, "documented")
        conn.execute("drop database documented with (force)")


@pytest.fixture
def shell(fresh: Database, tmp_path: Path) -> dict[str, str]:
    """An environment in which the documents' commands mean this project and this database."""
    (tmp_path / "pgq-py").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m pgq_py.cli "$@"\n')
    (tmp_path / "pgq-py").chmod(0o755)
    folders = [str(tmp_path), str(Path(sys.executable).parent), str(fresh.server.programs), os.environ["PATH"]]
    where = {"PGHOST": fresh.server.host, "PGPORT": "5432", "PGUSER": "postgres", "PGDATABASE": fresh.name}
    return os.environ | where | {"PATH": os.pathsep.join(folders), "PYTHONPATH": str(ROOT)}


class Session:
    """Runs the pieces of one document in their order, in one namespace and one database."""

    def __init__(self, database: Database, environment: dict[str, str], module: str = "documented") -> None:
        self.database = database
        self.environment = environment
        # A module, so that pickle finds the classes a document defines, and a worker its tasks.
        self.module = types.ModuleType(module)
        self.runner = asyncio.Runner()
        # Everything a document ever named, to be closed: it uses a name again for another thing.
        self.named: dict[int, Any] = {}

    def __enter__(self) -> Session:
        sys.modules[self.module.__name__] = self.module
        self.sql_connection = self.database.connect()
        return self

    def __exit__(self, *_: object) -> None:
        del sys.modules[self.module.__name__]
        for value in self.named.values():
            if callable(close := getattr(value, "close", None)) and not inspect.isclass(value):
                closing = close()
                if inspect.isawaitable(closing):
                    self.runner.run(as_coroutine(closing))
        self.runner.close()
        self.database.close()

    def here(self, text: str) -> str:
        """The text with the name of this database instead of the documents'."""
        server = self.database.server
        url = f"postgresql://postgres@/{self.database.name}?host={server.host}&port={server.port}"
        return text.replace(KEY_VALUE, self.database.dsn).replace(URL, url)

    def console(self, text: str) -> None:
        """Commands, each after a dollar sign."""
        for command in re.findall(r"^\$ (.*)$", text, re.M):
            done = subprocess.run(
                ["bash", "-o", "pipefail", "-c", self.here(command)],
                cwd=ROOT,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            assert done.returncode == 0, f"{command}\n{done.stdout}"

    def sql(self, text: str) -> None:
        """Statements on one connection, as psql would send them."""
        for match in STATEMENT.finditer(text):
            result = self.sql_connection.pgconn.exec_(match["sql"].encode())
            assert not result.error_message, f"{match['sql']}\n{result.error_message.decode()}"
            wanted = [line.strip()[2:].strip() for line in match["rows"].splitlines()]
            if wanted:
                rows = [
                    " | ".join((result.get_value(row, n) or b"").decode() for n in range(result.nfields))
                    for row in range(result.ntuples)
                ]
                assert rows == wanted, match["sql"]

    def python(self, text: str) -> None:
        """Statements at the top level of a module, where await is allowed."""
        lines = text.splitlines()
        for node in ast.parse(text).body:
            assert node.end_lineno is not None  # ast.parse sets it
            wanted = WANTED.search(lines[node.end_lineno - 1])
            kind, value = wanted.groups() if wanted else ("", "")
            printed = io.StringIO()
            with contextlib.redirect_stdout(printed), expect_error(value if kind == "raises" else None):
                result = self.run(node)
            if kind == "=>":
                got = repr(result) if result is not None else " ".join(printed.getvalue().split("\n")).strip()
                assert (got or "None") == value, ast.unparse(node)

    def run(self, node: ast.stmt) -> Any:
        """One statement; an expression's value."""
        node = ast.parse(self.here(ast.unparse(node))).body[0]
        tree: Any = ast.Expression(node.value) if isinstance(node, ast.Expr) else ast.Module([node], [])
        mode = "eval" if isinstance(node, ast.Expr) else "exec"
        code = compile(tree, "document", mode, flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        try:
            result = eval(code, self.module.__dict__)
            return self.runner.run(result) if code.co_flags & inspect.CO_COROUTINE else result
        finally:
            self.named |= {id(value): value for value in vars(self.module).values()}


async def as_coroutine(awaitable: Any) -> Any:
    return await awaitable


@contextlib.contextmanager
def expect_error(name: str | None) -> Iterator[None]:
    """Whether the block raises an exception of this class."""
    try:
        yield
    except Exception as error:
        if name is None or name not in {kind.__name__ for kind in type(error).__mro__}:
            raise
    else:
        assert name is None, f"{name} was not raised"


# The pages whose blocks are run, and the module that they are.
RUN = {
    "README.md": "documented",
    "docs/tasks.md": "app.tasks",
    "docs/workers.md": "app.work",
    "docs/metrics.md": "app.metrics",
}


@pytest.mark.timeout(600)
@pytest.mark.parametrize("page", RUN)
def test_every_block_runs(page: str, fresh: Database, shell: dict[str, str]) -> None:
    with Session(fresh, shell, RUN[page]) as session:
        for block in BLOCK.finditer((ROOT / page).read_text()):
            note = block["note"] or ""
            if note.startswith("run by "):
                assert (ROOT / note.removeprefix("run by ")).is_file(), note
                continue
            getattr(session, block["language"])(block["text"])


# Before PostgreSQL 18 the files have to go into the server's own folder; test_extension.py does that.
@pytest.mark.since(18)
def test_the_extension_is_installed_as_the_readme_says(fresh: Database, shell: dict[str, str]) -> None:
    (commands,) = [b["text"] for b in BLOCK.finditer(README.read_text()) if "create extension" in b["text"]]
    program = fresh.server.programs / "pg_config"
    share = subprocess.run([program, "--sharedir"], capture_output=True, text=True, check=True).stdout.strip()
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        shell |= {"DESTDIR": folder, "PGOPTIONS": f"-c extension_control_path={folder}{share}:$system"}
        with Session(fresh, shell) as session:
            session.console(re.sub(r"PG_CONFIG=\S+", f"PG_CONFIG={program}", commands))
            session.sql("select queue_put('apples', '{}');  -- 1\n")


@pytest.mark.parametrize("page", RUN)
def test_no_block_escapes(page: str) -> None:
    text = (ROOT / page).read_text()
    assert len(re.findall("^```", text, re.M)) == 2 * len(BLOCK.findall(text))
    assert {block["language"] for block in BLOCK.finditer(text)} <= {"console", "python", "sql"}


def tables() -> dict[str, list[list[str]]]:
    """The tables of coming-from.md, by their heading: rows of cells."""
    found: dict[str, list[list[str]]] = {}
    heading = ""
    for line in COMING_FROM.read_text().splitlines():
        if line.startswith("## "):
            heading = line[3:]
        elif line.startswith("| "):
            cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
            found.setdefault(heading, []).append(cells)
    return found


def code_of(cell: str) -> str:
    """The code in a cell: its code spans, one a line."""
    return "\n".join(re.findall(r"`([^`]*)`", cell)).replace("\\|", "|")


HEADINGS = ("pq", "pq 1.9", "py-q4pg", "HotQueue", "mongoqueue", "ghettoq")


@pytest.mark.parametrize("heading", HEADINGS)
def test_every_new_line_runs(
    heading: str, fresh: Database, shell: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("PGHOST", "PGPORT", "PGUSER", "PGDATABASE"):
        monkeypatch.setenv(name, shell[name])
    with Session(fresh, shell) as session:
        if heading == "ghettoq":
            django_database(fresh, monkeypatch)
        for old, new, gives in tables()[heading][1:]:
            if not code_of(new):
                assert gives, f"no counterpart and no word why: {old}"
                continue
            result = re.match(r"(raises )?`([^`]*)`", gives)
            mark = "" if result is None else f"  # {result[1] or '=> '}{result[2]}"
            session.python(code_of(new) + mark)


def test_every_table_is_run() -> None:
    assert set(tables()) == set(HEADINGS)
    assert all(len(row) == 3 for rows in tables().values() for row in rows)


def test_little_is_missing() -> None:
    promised = re.compile(r"\b(next|later|coming) release")
    for row in (row for rows in tables().values() for row in rows):
        if promised.search(" ".join(row)):
            assert row[1] == NOT_YET, row
            assert any(name in row[0] for name in MISSING), row


def django_database(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make `django.db.connection` one to this database, whatever settings an earlier test made."""
    from django.conf import settings
    from django.db import ConnectionHandler, connections

    server = database.server
    options = {"ENGINE": "django.db.backends.postgresql", "NAME": database.name, "USER": "postgres"}
    options |= {"HOST": server.host, "PORT": str(server.port)}
    if not settings.configured:
        settings.configure(DATABASES={"default": options}, USE_TZ=True)
    monkeypatch.setattr(connections._connections, "default", ConnectionHandler({"default": options})["default"], False)


def test_the_tests_that_the_page_on_security_names_are_there() -> None:
    named = re.findall(r"`(test_\w+)(…|\.py)?`", (ROOT / "docs/security.md").read_text())
    assert len(named) > 20
    texts = {path.name: path.read_text() for path in (ROOT / "tests").glob("test_*.py")}
    functions = "".join(texts.values())
    for name, end in named:
        assert (
            f"{name}.py" in texts
            if end == ".py"
            else re.search(rf"^(async )?def {name}\b" if not end else name, functions, re.M)
        ), name


PAGES = ["README.md", "CONTRIBUTING.md", *sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").rglob("*.md"))]


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", (ROOT / page).read_text()):
        assert (ROOT / page).parent.joinpath(target).exists(), target


def test_the_index_of_design_pages_is_whole() -> None:
    index = (ROOT / "docs/design/README.md").read_text()
    assert all(f"({path.name})" in index for path in (ROOT / "docs/design").glob("*.md") if path.name != "README.md")
