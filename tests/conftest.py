"""Fixtures: servers, and for each test a database of its own, cloned from a template."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from pytest_postgresql import factories
from servers import Server, find_servers

ROOT = Path(__file__).parent.parent
FOUND = find_servers()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--pg",
        action="append",
        choices=sorted(FOUND),
        help="test on this version of PostgreSQL (may be repeated); by default on all that are present",
    )


def pytest_report_header(config: pytest.Config) -> str:
    return "PostgreSQL: " + ", ".join(versions(config))


def versions(config: pytest.Config) -> list[str]:
    chosen = config.getoption("--pg") or sorted(FOUND, reverse=True)
    return [version for version in FOUND if version in chosen]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "version" in metafunc.fixturenames:
        found = versions(metafunc.config)
        metafunc.parametrize("version", found, ids=[f"pg{v}" for v in found], scope="session")


def install(host: str, port: int, user: str, dbname: str, password: str | None = None, **_: Any) -> None:
    """Load the queue into the template, from the text of sql/ (that migrations do the same is a test)."""
    files = [ROOT / "sql" / "schema.sql", *sorted((ROOT / "sql" / "functions").glob("*.sql"))]
    with psycopg.connect(host=host, port=port, user=user, dbname=dbname) as conn:
        conn.execute("set local search_path to public, pg_temp")
        for file in files:
            conn.execute(file.read_bytes())


def _fixtures_for(version: str) -> None:
    """pytest-postgresql makes fixtures by name: a server, a template database on it, a clone for each test."""

    @pytest.fixture(scope="session")
    def running() -> Iterator[Server]:
        server = Server(version, FOUND[version])
        try:
            server.create()
            yield server
        finally:
            server.remove()

    globals()[f"server_{version}"] = running
    globals()[f"template_{version}"] = factories.postgresql_noproc(
        depends_on=f"server_{version}", dbname=f"queue{version}", load=[install]
    )
    globals()[f"clone_{version}"] = factories.postgresql(f"template_{version}")


for _version in FOUND:
    _fixtures_for(_version)


@pytest.fixture
def server(version: str, request: pytest.FixtureRequest) -> Server:
    """A running server, shared by the tests of the session: don't stop it."""
    found: Server = request.getfixturevalue(f"server_{version}")
    return found


class Database:
    """A database of one test: where it is, and connections that are closed with it."""

    def __init__(self, server: Server, name: str) -> None:
        self.server = server
        self.name = name
        self.dsn = server.dsn(name)
        self._opened: list[psycopg.Connection[Any]] = []

    def connect(self, autocommit: bool = True, **options: Any) -> psycopg.Connection[Any]:
        conn = psycopg.connect(self.dsn, autocommit=autocommit, **options)
        self._opened.append(conn)
        return conn

    def close(self) -> None:
        for conn in self._opened:
            conn.close()


@pytest.fixture
def database(version: str, server: Server, request: pytest.FixtureRequest) -> Iterator[Database]:
    """A fresh database with the queue installed in the schema public."""
    clone: psycopg.Connection[Any] = request.getfixturevalue(f"clone_{version}")
    database = Database(server, clone.info.dbname)
    clone.close()
    yield database
    database.close()


@pytest.fixture
def conn(database: Database) -> psycopg.Connection[Any]:
    """An autocommit connection to the test's database."""
    return database.connect()
