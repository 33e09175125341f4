"""What is installed: where the SQL is found, who may do what, and that a wheel's layout works as well."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import psycopg
import pytest
from checkout import ROOT, Checkout

from pgq_py import PQ, migrate, resources

Connection = psycopg.Connection[Any]


def test_in_a_checkout_the_sql_is_beside_the_package() -> None:
    assert resources.sql() == ROOT / "sql"
    assert resources.migrations() == ROOT / "migrations"


def test_in_a_wheel_the_sql_is_in_the_package(database: Any, tmp_path: Path) -> None:
    package = tmp_path / "site" / "pgq_py"
    shutil.copytree(ROOT / "pgq_py", package, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("sql", "migrations"):
        shutil.copytree(ROOT / name, package / name)
        # Somebody else's, which must not be taken for ours.
        (package.parent / name).mkdir()
    site = Checkout(package.parent)
    found = site.python("-c", "from pgq_py import resources; print(resources.sql(), resources.migrations())").stdout
    assert found.split() == [str(package / "sql"), str(package / "migrations")]
    site.command("migrate", "--dsn", database.dsn, "--schema", "wheel")
    assert migrate.current(database.dsn, "wheel") == migrate.HEAD


def test_an_incomplete_installation_says_so(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "pgq_py", tmp_path / "pgq_py", ignore=shutil.ignore_patterns("__pycache__"))
    done = Checkout(tmp_path).python("-c", "import pgq_py.migrate", check=False)
    assert "the installation is incomplete" in done.stderr


@pytest.mark.parametrize("schema", ["public", "Billing queue"])
def test_create_installs_and_may_be_called_again(database: Any, schema: str) -> None:
    migrate_away(database)
    with PQ(database.dsn, schema=schema) as pq:
        pq.create()
        pq.create()
        job = pq["apples"].put({"kind": "Cox"})
    assert migrate.current(database.dsn, schema) == migrate.HEAD
    with PQ(database.dsn, schema=schema) as pq:
        pq.create()
        found = pq["apples"].get(timeout=5)
        assert found is not None
        assert (found.id, found.data) == (job, {"kind": "Cox"})


def migrate_away(database: Any) -> None:
    """The template was loaded from sql/ and not migrated: make the database empty."""
    with database.connect() as conn:
        conn.execute("drop schema public cascade; create schema public")


def test_upgrade_takes_parameters_as_a_dict(database: Any) -> None:
    server = database.server
    where = {"host": server.host, "user": server.user, "dbname": database.name, "password": None}
    migrate.upgrade(where, "elsewhere")
    assert migrate.current(where, "elsewhere") == migrate.HEAD


def functions(conn: Connection, condition: str) -> list[str]:
    query = f"select oid::regprocedure::text from pg_proc where pronamespace = 'public'::regnamespace and {condition}"
    return [row[0] for row in conn.execute(query.encode()).fetchall()]


def test_public_may_execute_nothing_and_touch_no_table(conn: Connection) -> None:
    assert functions(conn, "has_function_privilege('public', oid, 'execute')") == []
    rows = conn.execute(
        "select relname from pg_class where relnamespace = 'public'::regnamespace and relkind in ('r', 'S') "
        "and (relacl is not null and exists (select from aclexplode(relacl) where grantee = 0))"
    )
    assert rows.fetchall() == []


def test_every_function_pins_its_search_path_and_carries_a_comment(conn: Connection) -> None:
    assert functions(conn, "true") != []
    # But for those that were parsed when they were created, and for one: see test_sql_audit.py.
    pinned = "coalesce(proconfig && array['search_path=public, pg_temp'], false)"
    assert functions(conn, f"prosqlbody is null and not {pinned}") == ["_queue_strangers(regclass)"]
    assert functions(conn, "obj_description(oid, 'pg_proc') is null") == []


def test_no_function_has_two_signatures(conn: Connection) -> None:
    names = [name.split("(")[0] for name in functions(conn, "true")]
    assert len(names) == len(set(names))


def test_the_sources_hold_one_function_each() -> None:
    for file in sorted((ROOT / "sql" / "functions").glob("*.sql")):
        text, name = file.read_text(), file.stem
        assert text.count("create or replace function") == 1, name
        assert text.startswith(f"create or replace function {name}("), name
        assert f"\ncomment on function {name} is" in text, name
        assert f"\nrevoke all on function {name} from public;\n" in text, name
