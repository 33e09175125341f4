"""Faults, and the errors they become: ours and psycopg's at once, with psycopg's as the cause."""
# ruff: noqa: PT012 - a transaction that fails is a block of statements.

from __future__ import annotations

import inspect
import queue as stdlib_queue
from typing import Any

import psycopg
import pytest
from worlds import Background

from pgq_py import SCHEMA_VERSION, errors

pytest_plugins = ("world_fixtures",)

CALLS = {
    "put": lambda queue: queue.put("secret"),
    "put_many": lambda queue: queue.put_many(["secret"]),
    "get": lambda queue: queue.get(block=False),
    "get, blocked": lambda queue: queue.get(timeout=1),
    "cancel": lambda queue: queue.cancel(1),
    "update": lambda queue: queue.update(1, "secret"),
    "clear": lambda queue: queue.clear(),
    "pause": lambda queue: queue.pause(),
    "resume": lambda queue: queue.resume(),
    "create": lambda queue: queue.create(),
    "drop": lambda queue: queue.drop(),
}


def test_every_error_is_ours_and_tells_what_it_is():
    classes = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if kind.__module__ == errors.__name__]
    assert len(classes) > 15
    for kind in classes:
        assert issubclass(kind, errors.Error)
        assert kind.__doc__


@pytest.mark.parametrize(
    ("ours", "theirs", "state"),
    [
        (errors.Empty, stdlib_queue.Empty, None),
        (errors.BadName, ValueError, None),
        (errors.TimeError, ValueError, None),
        (errors.PayloadError, ValueError, None),
        (errors.DecodeError, ValueError, None),
        (errors.NotInstalled, psycopg.ProgrammingError, None),
        (errors.NotAllowed, psycopg.errors.InsufficientPrivilege, "42501"),
        (errors.ReadOnly, psycopg.errors.ReadOnlySqlTransaction, "25006"),
        (errors.TransactionConflict, psycopg.errors.SerializationFailure, "40001"),
        (errors.TransactionAborted, psycopg.errors.InFailedSqlTransaction, "25P02"),
        (errors.Canceled, psycopg.errors.QueryCanceled, "57014"),
        (errors.LockTimeout, psycopg.errors.LockNotAvailable, "55P03"),
        (errors.ConnectionLost, psycopg.OperationalError, None),
    ],
)
def test_an_error_is_also_what_one_would_expect_to_catch(ours, theirs, state):
    assert issubclass(ours, theirs)
    assert getattr(ours, "sqlstate", None) == state


def from_psycopg(error: BaseException, state: str) -> None:
    assert isinstance(error, errors.Error)
    assert isinstance(error, psycopg.Error)
    assert isinstance(error.__cause__, psycopg.Error)
    assert error.sqlstate == error.__cause__.sqlstate == state
    assert error.diag.sqlstate == state
    assert "secret" not in str(error)


@pytest.mark.parametrize(
    ("statement", "ours", "state"),
    [
        ("select 'secret'::int", errors.PayloadError, "22P02"),
        ("select '{secret'::jsonb", errors.PayloadError, "22P02"),
        ("""select '"secret\\u0000"'::jsonb""", errors.PayloadError, "22P05"),
        ("select (repeat('[', 100000) || '\"secret\"')::jsonb", errors.PayloadError, "54001"),
        ("select 'xyz'::timestamptz", errors.TimeError, "22007"),
        ("select '294277-01-01'::timestamptz", errors.TimeError, "22008"),
    ],
)
def test_what_the_server_refuses_is_told_without_the_data(conn, statement, ours, state):
    with pytest.raises(psycopg.Error) as caught:
        conn.execute(statement)
    made = errors.translate(caught.value, schema="public")
    assert type(made) is ours
    assert caught.value.sqlstate == state
    assert "secret" not in str(made)


# Names


BAD_NAMES = ["", "a" * 256, "é" * 128, "nul\0", "\0", "half\ud800", None, 1, b"bytes"]
GOOD_NAMES = [
    "a" * 255, "é" * 127, '"; DROP TABLE queue_job; --', "'", "a b", "Apples", "é", "x" * 64, "%s", "a/b", "\n",
    "\U0001f34e",
]  # fmt: skip


async def test_a_bad_name_is_refused_before_any_write(world):
    pq = world.pq()
    for name in BAD_NAMES:
        with pytest.raises(errors.BadName) as caught:
            _ = pq[name]
        assert isinstance(caught.value, ValueError)
        with pytest.raises(errors.BadName):
            _ = pq["fine", name]
        with pytest.raises(errors.BadName):
            pq.queue(name)
    assert await pq.stats() == []


async def test_a_strange_name_works_everywhere(world):
    pq = world.pq()
    for name in GOOD_NAMES:
        queue = pq[name]
        await queue.put({"in": name})
        await queue.put_many([1])
        job = await queue.get(timeout=1)
        assert (job.data, job.queue) == ({"in": name}, name)
        assert await queue.get(timeout=0.01) is not None
        assert await queue.get(timeout=0.01) is None
        async with pq[name, "other"].take(block=False) as job:
            assert job is None
    found = {stats.queue: (stats.ready, stats.put, stats.taken) for stats in await pq.stats()}
    assert found == dict.fromkeys(GOOD_NAMES, (0, 2, 2))


# Installed or not


@pytest.mark.parametrize("how", ["no schema", "empty schema"])
@pytest.mark.parametrize("kind", ["address", "pool", "conn"])
async def test_a_schema_without_the_queue_is_told_with_the_command(world, conn, how, kind):
    if how == "empty schema":
        conn.execute("create schema billing")
    args: Any = {"address": (world.dsn,), "conn": (await world.connect(),), "pool": ()}[kind]
    options = {"pool": await world.pool()} if kind == "pool" else {}
    pq = world.pq(*args, schema="billing", **options)
    for call in CALLS.values():
        with pytest.raises(errors.NotInstalled, match=r"'billing'.*pgq-py migrate") as caught:
            await call(pq["apples"])
        from_psycopg(caught.value, "3F000" if how == "no schema" else "42883")
        assert "type casts" not in str(caught.value)
    with pytest.raises(errors.NotInstalled):
        await pq.version()


@pytest.mark.parametrize(("installed", "command"), [("0000", "pgq-py migrate"), ("9999", "pip install --upgrade")])
async def test_another_version_is_told_with_both_and_the_command(world, conn, installed, command):
    conn.execute(f"create or replace function queue_version() returns text language sql as $$ select '{installed}' $$")
    pq = world.pq()
    for call in CALLS.values():
        with pytest.raises(errors.VersionMismatch, match=f"{installed}.*{SCHEMA_VERSION}.*{command}"):
            await call(pq["apples"])
    with pytest.raises(errors.VersionMismatch):
        async with pq["apples"]:
            pass
    conn.execute(
        f"create or replace function queue_version() returns text language sql as $$ select '{SCHEMA_VERSION}' $$"
    )
    await pq["apples"].put(1)
    assert await pq.version() == SCHEMA_VERSION


async def test_an_address_where_nothing_is_is_an_error_at_once(world):
    queue = world.pq("host=/nonexistent port=1 dbname=none password=secret")["apples"]
    for _ in range(2):
        with pytest.raises(errors.ConnectionLost) as caught:
            await queue.put(1)
        assert isinstance(caught.value, psycopg.OperationalError)
        assert "secret" not in str(caught.value)


async def test_a_role_without_rights_is_told(world, conn):
    conn.execute("drop role if exists stranger")
    conn.execute("create role stranger login")
    try:
        queue = world.pq(await world.connect(conninfo={"user": "stranger"}))["apples"]
        with pytest.raises(errors.NotAllowed) as caught:
            await queue.put("secret")
        from_psycopg(caught.value, "42501")
        await world.close()
    finally:
        conn.execute("drop role stranger")


# Read only


@pytest.mark.parametrize("name", sorted(CALLS))
async def test_a_read_only_session_is_told_with_a_hint(world, name):
    queue = world.pq(await world.connect(conninfo={"options": "-c default_transaction_read_only=on"}))["apples"]
    if name.startswith("get") or name in ("cancel", "update", "clear", "resume", "drop"):
        # On an empty queue some of them have nothing to write: with a job they do.
        await world.pq()["apples"].put(1)
        await world.pq()["apples"].pause() if name == "resume" else None
    with pytest.raises(errors.ReadOnly, match="target_session_attrs") as caught:
        await CALLS[name](queue)
    from_psycopg(caught.value, "25006")


@pytest.fixture(scope="module")
def standbys() -> Any:
    made: dict[str, Any] = {}
    yield made
    for standby in made.values():
        standby.remove()


@pytest.fixture
def standby(server: Any, conn: Any, standbys: Any) -> Any:
    """A hot standby of the server, made once for each version."""
    from servers import Server

    if server.version not in standbys:
        made = Server(server.version, server.programs)
        standbys[server.version] = made
        made.run(
            "pg_basebackup", "-h", server.host, "-U", server.user, "-D", str(made.data),
            "-R", "-c", "fast", "-X", "stream", "--no-sync",
        )  # fmt: skip
        with (made.data / "postgresql.conf").open("a") as conf:
            conf.write(f"unix_socket_directories = '{made.folder}'\n")
        made.start()
    made = standbys[server.version]
    (lsn,) = conn.execute("select pg_current_wal_insert_lsn()").fetchone()
    with psycopg.connect(made.dsn(), autocommit=True) as there:
        while not there.execute("select pg_last_wal_replay_lsn() >= %s::pg_lsn", [lsn]).fetchone()[0]:
            pass
    return made


async def test_every_call_on_a_standby_is_told_with_a_hint(world, standby, conn):
    (name,) = conn.execute("select current_database()").fetchone()
    queue = world.pq(standby.dsn(name))["apples"]
    for call in CALLS.values():
        with pytest.raises(errors.ReadOnly, match="target_session_attrs") as caught:
            await call(queue)
        assert isinstance(caught.value.__cause__, psycopg.Error)
    # Looking is fine.
    assert await queue.count() == 0
    assert await queue.list() == []


# Conflicts, timeouts, two phases


async def contended(world: Any, level: str) -> tuple[Any, Any]:
    escaped = level.replace(" ", "\\ ")
    mine = await world.connect(conninfo={"options": f"-c default_transaction_isolation={escaped}"})
    return world.pq(mine)["apples"], world.pq()["apples"]


@pytest.mark.parametrize("level", ["serializable", "repeatable read"])
async def test_a_get_that_lost_is_repeated_in_a_transaction_of_our_own(world, database, conn, level):
    queue, other = await contended(world, level)
    await other.put_many([1, 2])
    await queue.count()
    # Each first try of a get fails as it would where another transaction was first.
    conn.execute("create sequence tries")
    conn.execute(
        "create function lose() returns trigger language plpgsql as $$ begin "
        "if nextval('tries') < 4 then raise serialization_failure; end if; return old; end $$"
    )
    conn.execute("create trigger lose before delete on queue_job for each row execute function lose()")
    assert (await queue.get(block=False)).data == 1
    conn.execute("alter sequence tries restart")
    async with queue:
        with pytest.raises(errors.TransactionConflict) as caught:
            await queue.get(block=False)
        from_psycopg(caught.value, "40001")
        raise psycopg.Rollback
    assert await queue.count() == 1


async def test_a_real_conflict_in_the_callers_transaction_is_raised(world, database, conn):
    queue, other = await contended(world, "repeatable read")
    first = await other.put(1)
    with pytest.raises(errors.TransactionConflict) as caught:
        async with queue as cursor:
            await cursor.execute("select 1")
            await other.update(first, 2)
            await queue.get(block=False)
    from_psycopg(caught.value, "40001")
    assert (await queue.get(block=False)).data == 2


async def test_a_statement_timeout_is_told_and_the_transaction_unusable(world, database, conn):
    holder = database.connect(autocommit=False)
    holder.execute("lock table queue_job in access exclusive mode")
    mine = await world.connect(conninfo={"options": "-c statement_timeout=50"})
    pq = world.pq(mine)
    await pq.version()
    with pytest.raises(errors.Canceled) as caught:
        await pq["apples"].get(block=False)
    from_psycopg(caught.value, "57014")
    with pytest.raises(errors.TransactionAborted, match="rolled back"):
        async with pq["apples"]:
            with pytest.raises(errors.Canceled, match="rolled back"):
                await pq["apples"].get(block=False)
            with pytest.raises(errors.TransactionAborted, match="roll it back"):
                await pq["apples"].put(1)
    holder.rollback()
    await pq["apples"].put(1)
    assert (await pq["apples"].get()).data == 1


async def test_a_lock_timeout_is_told(world, database):
    holder = database.connect(autocommit=False)
    holder.execute("lock table queue_job in access exclusive mode")
    queue = world.pq(await world.connect(conninfo={"options": "-c lock_timeout=50"}))["apples"]
    with pytest.raises(errors.LockTimeout) as caught:
        await queue.put("secret")
    from_psycopg(caught.value, "55P03")


async def test_two_phase_commit_works_without_notifying(world, conn):
    mine = await world.connect(autocommit=True)
    queue = world.pq(mine)["apples"]
    conn.execute("select queue_listen('apples')")  # with nobody asleep nothing is notified
    await mine.execute("begin")
    await queue.put("secret")
    with pytest.raises(psycopg.errors.FeatureNotSupported):
        await mine.execute("prepare transaction 'one'")
    await mine.rollback()
    await mine.execute("begin")
    await queue.put("secret", notify=False)
    await queue.put_many(["secret"], notify=False)
    await mine.execute("prepare transaction 'two'")
    assert await queue.count() == 0
    await mine.execute("commit prepared 'two'")
    assert await queue.count() == 2


async def test_an_error_without_a_class_of_ours_is_ours_and_psycopgs(world, conn):
    conn.execute("alter table queue_job add constraint small check (octet_length(data::text) < 10)")
    queue = world.pq()["apples"]
    with pytest.raises(psycopg.errors.CheckViolation) as caught:
        await queue.put({"a": "secret data"})
    from_psycopg(caught.value, "23514")
    assert caught.value.diag.constraint_name == "small"


# Connections that die


@pytest.mark.parametrize("how", ["get", "take"])
async def test_a_connection_of_the_callers_that_dies_under_a_blocked_call_is_told(world, sleepers, conn, how):
    queue = (await world.way("conn"))["apples"]
    await queue.count()

    def kill() -> None:
        sleepers.wait()
        conn.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity "
            "where datname = current_database() and pid <> pg_backend_pid()"
        )

    killing = Background(kill)
    with pytest.raises(errors.ConnectionLost) as caught:
        if how == "get":
            await queue.get()
        else:
            async with queue.take():
                pass
    killing.result()
    assert not isinstance(caught.value, errors.CommitUnknown)
    assert isinstance(caught.value.__cause__, psycopg.OperationalError)
    with pytest.raises(errors.Closed):
        await queue.put(1)


@pytest.mark.parametrize("kind", ["address", "pool"])
async def test_an_idle_connection_that_died_is_replaced(world, conn, kind):
    queue = (await world.way(kind))["apples"]
    await queue.put(1)
    for _ in range(3):
        (pid,) = conn.execute(
            "select pid from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()"
        ).fetchone()
        conn.execute("select pg_terminate_backend(%s, 10000)", [pid])
        assert await queue.count() == 1


@pytest.mark.parametrize("kind", ["address", "conn"])
async def test_a_connection_that_dies_in_take_gives_the_job_back(world, conn, kind):
    queue = (await world.way(kind))["apples"]
    await queue.put(1)
    with pytest.raises(errors.ConnectionLost):
        async with queue.take() as job:
            assert job.data == 1
            conn.execute(
                "select pg_terminate_backend(pid, 10000) from pg_stat_activity "
                "where datname = current_database() and pid <> pg_backend_pid()"
            )
    assert conn.execute("select queue_count('apples', scheduled => true)").fetchone() == (1,)


async def test_the_error_in_take_is_not_replaced_by_the_death_of_its_connection(world, conn):
    queue = world.pq()["apples"]
    await queue.put(1)
    with pytest.raises(LookupError):
        async with queue.take():
            conn.execute(
                "select pg_terminate_backend(pid, 10000) from pg_stat_activity "
                "where datname = current_database() and pid <> pg_backend_pid()"
            )
            raise LookupError
    # Recorded all the same, on another connection.
    (back,) = await queue.list(scheduled=True)
    assert (back.data, back.attempts) == (1, 1)
    assert back.last_error.endswith("LookupError")


async def test_idling_in_a_transaction_too_long_is_told_with_advice(world, conn):
    queue = world.pq(await world.connect(conninfo={"options": "-c idle_in_transaction_session_timeout=50"}))["apples"]
    await queue.put(1)
    with pytest.raises(errors.ConnectionLost, match="keep transactions short"):
        async with queue.take():
            while conn.execute(
                "select count(*) from pg_stat_activity where datname = current_database()"
            ).fetchone() != (1,):
                pass
            await queue.put(2)
    assert conn.execute("select queue_count('apples')").fetchone() == (1,)


async def test_a_closed_pq_is_told(world):
    for kind in ("address", "pool", "conn"):
        pq = await world.way(kind)
        await pq["apples"].count()
        await pq.close()
        await pq.close()
        for call in CALLS.values():
            with pytest.raises(errors.Closed):
                await call(pq["apples"])
        with pytest.raises(errors.Closed):
            async with pq["apples"]:
                pass
