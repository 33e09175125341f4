"""How data is stored and read: JSON, pickles, anything with dumps and loads; and what can't be."""
# ruff: noqa: PT012 - a transaction that fails is a block of statements.

from __future__ import annotations

import base64
import json
import marshal
import pickle
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from pgq_py import errors

pytest_plugins = ("world_fixtures",)

TEXT = SimpleNamespace(
    dumps=lambda data: base64.b64encode(repr(data).encode()).decode(),
    loads=lambda text: eval(base64.b64decode(text)),
)
NO_JSON = {
    "NaN": float("nan"),
    "infinite": [float("-inf")],
    "surrogate": {"secret": "\ud800"},
    "surrogate key": {"secret\udc00": 1},
    "NUL": "secret\0",
    "NUL key": {"secret\0": 1},
    "big": [2**70],
    "big negative": -(2**63) - 1,
    "set": {"secret"},
    "bytes": b"secret",
    "object": SimpleNamespace(secret=1),
    "key": {("secret",): 1},
    "function": json.dumps,
}


def deep(levels: int) -> Any:
    data: Any = "secret"
    for _ in range(levels):
        data = [data]
    return data


def stored(conn: Any) -> tuple[Any, ...]:
    return conn.execute("select data, data_text, data_bytes from queue_job").fetchone()


@pytest.mark.parametrize("kind", sorted(NO_JSON))
async def test_what_is_not_json_is_refused_and_never_shown(world, conn, kind):
    for way in ("address", "conn"):
        queue = (await world.way(way))["apples"]
        for call in (queue.put, lambda data, queue=queue: queue.put_many([1, data])):
            with pytest.raises(errors.PayloadError) as caught:
                await call(NO_JSON[kind])
            told(caught.value)
        id = await queue.put("fine")
        with pytest.raises(errors.PayloadError):
            await queue.update(id, NO_JSON[kind])
        with pytest.raises(errors.PayloadError):
            await queue.put(1, headers=NO_JSON[kind])
        assert [job.data for job in await queue.list()] == ["fine"]
        await queue.clear()


async def test_what_is_refused_leaves_the_transaction_usable(world):
    queue = world.pq()["apples"]
    async with queue:
        await queue.put(1)
        for data in NO_JSON.values():
            with pytest.raises(errors.PayloadError) as caught:
                await queue.put(data)
            assert caught.value.__cause__ is None
        await queue.put(2)
    assert [job.data for job in await queue.list()] == [1, 2]


def told(error: BaseException | None) -> None:
    """Neither the error nor what it is chained to shows the data."""
    assert isinstance(error, ValueError)
    while error is not None:
        assert "secret" not in str(error)
        assert "secret" not in repr(error)
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


@pytest.mark.parametrize("levels", [900, 5_000, 50_000, 100_000])
async def test_deep_data_is_stored_or_refused(world, conn, levels):
    queue = world.pq()["apples"]
    try:
        await queue.put(deep(levels))
    except errors.PayloadError as error:
        told(error)
        assert await queue.count() == 0
    else:
        assert (await queue.get(block=False)).data == deep(levels)
    await queue.put("fine")
    assert (await queue.get(block=False)).data == "fine"


async def test_json_that_the_server_refuses_is_told_without_it(world):
    """Python's limit may be set higher than the server's, which is the size of its stack."""
    pq = world.pq(await world.connect(conninfo={"options": "-c max_stack_depth=100kB"}))
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(10_000)
    try:
        with pytest.raises(errors.PayloadError) as caught:
            await pq["apples"].put(deep(5_000))
    finally:
        sys.setrecursionlimit(limit)
    told(caught.value)
    assert caught.value.__cause__.sqlstate == "54001"


async def test_text_that_the_connections_encoding_lacks_is_refused_without_it(world):
    queue = world.pq(await world.connect(conninfo={"client_encoding": "latin1"}))["apples"]
    await queue.put("é")
    with pytest.raises(errors.PayloadError) as caught:
        await queue.put("secret 林檎")
    told(caught.value)
    assert (await queue.get(block=False)).data == "é"


async def test_pickles_are_bytes_of_their_own(world, conn):
    queue = world.pq()["apples/pickle"]
    data = {"set": {1, 2}, "bytes": b"\0\xff", "nan": complex(1, 2)}
    await queue.put(data)
    assert [value is None for value in stored(conn)] == [True, True, False]
    assert pickle.loads(stored(conn)[2]) == data
    job = await queue.get()
    assert (job.data, job.queue, job.size) == (data, "apples/pickle", len(pickle.dumps(data)))
    await queue.put_many([{1}, {2}])
    assert [job.data for job in await queue.get_many(2)] == [{1}, {2}]


@pytest.mark.parametrize(
    ("serializer", "column"),
    [(TEXT, 1), (marshal, 2), (pickle, 2), (json, 1)],
    ids=["text", "marshal", "pickle", "json"],
)
async def test_what_a_serializer_gives_is_stored_as_such(world, conn, serializer, column):
    queue = world.pq().queue("apples", serializer=serializer)
    data = {"kind": "Cox", "text": 'é"\\'}
    id = await queue.put(data)
    assert stored(conn)[column] == serializer.dumps(data)
    assert sum(value is not None for value in stored(conn)) == 1
    assert [job.data for job in await queue.list()] == [data]
    assert await queue.update(id, [1])
    assert stored(conn)[column] == serializer.dumps([1])
    assert (await queue.get()).data == [1]
    ids = await queue.put_many([1, 2])
    assert [(job.id, job.data) for job in await queue.get_many(5)] == list(zip(ids, [1, 2], strict=True))


async def test_what_a_serializer_can_not_store_is_refused(world):
    pq = world.pq()

    def fail(_: Any) -> Any:
        raise LookupError("mine")

    for dumps, message in [
        (fail, "LookupError"),
        (lambda _: None, "NoneType"),
        (lambda _: {"secret": 1}, "dict"),
        (lambda _: "secret\0", "NUL"),
        (lambda _: "secret\ud800", "surrogate"),
    ]:
        queue = pq.queue("apples", serializer=SimpleNamespace(dumps=dumps, loads=json.loads))
        with pytest.raises(errors.PayloadError, match=message) as caught:
            await queue.put("secret")
        told(caught.value)
        with pytest.raises(errors.PayloadError):
            await queue.put_many(["secret"])
    assert await pq["apples"].count() == 0


async def test_a_batch_of_both_kinds_is_refused(world):
    mixed = SimpleNamespace(dumps=lambda data: data, loads=lambda data: data)
    queue = world.pq().queue("apples", serializer=mixed)
    with pytest.raises(errors.PayloadError):
        await queue.put_many(["text", b"bytes"])
    assert await queue.count() == 0


async def test_what_is_no_serializer_is_refused(world):
    with pytest.raises(TypeError, match="dumps and loads"):
        world.pq().queue("apples", serializer=object())


UNREADABLE = {
    "text for JSON": ("insert_text", None),
    "JSON for a serializer": ("insert_json", TEXT),
    "broken pickle": ("insert_bytes", pickle),
    "unknown class": ("insert_class", pickle),
    "failing": ("insert_text", SimpleNamespace(dumps=str, loads=lambda text: text.secret)),
}
INSERTS = {
    "insert_text": "select queue_put('apples', data_text => 'secret', priority => 5, headers => '[1]')",
    "insert_json": """select queue_put('apples', '"secret"', priority => 5, headers => '[1]')""",
    "insert_bytes": "select queue_put('apples', data_bytes => 'secret', priority => 5, headers => '[1]')",
    "insert_class": "select queue_put('apples', data_bytes => 'cnowhere\nsecret\n.', priority => 5, headers => '[1]')",
}


@pytest.mark.parametrize("kind", sorted(UNREADABLE))
@pytest.mark.parametrize("how", ["get", "block", "take", "consume", "listen", "get_many"])
async def test_what_can_not_be_read_goes_to_the_dead_and_the_loop_goes_on(world, conn, caplog, kind, how):
    insert, serializer = UNREADABLE[kind]
    pq = await world.way("conn")
    queue = pq.queue("apples", serializer=serializer)
    (id,) = conn.execute(INSERTS[insert]).fetchone()
    good: Any = "fine"
    if kind == "failing":
        queue_fine = pq.queue("apples", serializer=SimpleNamespace(dumps=str, loads=str))
        serializer.loads = lambda text: text if text == "fine" else text.secret
        await queue_fine.put(good)
    else:
        await queue.put(good)
    if how == "get":
        data = (await queue.get(block=False)).data
    elif how == "block":
        async with queue:
            data = (await queue.get(block=False)).data
    elif how == "take":
        async with queue.take(block=False) as job:
            data = job.data
    elif how == "get_many":
        (job,) = await queue.get_many(5)
        data = job.data
    else:
        (data,) = [job.data async for job in getattr(queue, how)(timeout=0)]
    assert data == good
    dead = conn.execute(
        "select id, reason, priority, headers, num_nonnulls(data, data_text, data_bytes) from queue_dead"
    )
    ((dead_id, reason, *kept),) = dead.fetchall()
    assert (dead_id, kept) == (id, [5, [1], 1])
    assert reason
    assert "secret" not in reason
    assert "secret" not in caplog.text
    assert await queue.count(scheduled=True) == 0


async def test_a_rolled_back_block_gives_back_even_what_went_to_the_dead(world, conn):
    queue = world.pq()["apples"]
    conn.execute(INSERTS["insert_text"])
    with pytest.raises(LookupError):
        async with queue:
            assert await queue.get(block=False) is None
            raise LookupError
    assert conn.execute("select count(*) from queue_dead").fetchone() == (0,)
    assert await queue.count() == 1


async def test_headers_that_can_not_be_read_do_not_stop_the_loop(world, conn):
    """Deeper than Python's recursion limit, which another language may write."""
    queue = world.pq()["apples"]
    conn.execute("select queue_put('apples', '1', headers => (repeat('[', 3000) || repeat(']', 3000))::jsonb)")
    conn.execute("select queue_put('apples', '2')")
    assert (await queue.get(block=False)).data == 2
    assert conn.execute("select count(*) from queue_dead").fetchone() == (1,)


async def test_a_set_of_queues_reads_each_with_its_own_serializer(world):
    pq = world.pq()
    await pq["a"].put([1])
    await pq["b/pickle"].put({2})
    both = pq["a", "b/pickle"]
    assert [(await both.get()).data, (await both.get()).data] == [[1], {2}]


async def test_size_is_of_what_is_stored(world):
    pq = world.pq()
    await pq["apples"].put("é")
    assert (await pq["apples"].get()).size == 4
    await pq.queue("apples", serializer=TEXT).put("é")
    assert (await pq.queue("apples", serializer=TEXT).get()).size == len(TEXT.dumps("é"))


async def test_data_larger_than_any_are_refused_before_they_are_sent(world, monkeypatch):
    """Of more than 1 GB the message would end the connection. Characters are bytes, and up to four of them."""
    monkeypatch.setattr("pgq_py.codecs.LARGEST", 100)
    pq = world.pq(await world.connect())
    plain = SimpleNamespace(dumps=lambda data: data, loads=lambda data: data)
    for queue, fits, too_large in [
        (pq["apples"], "é" * 49, "é" * 49 + "x"),
        (pq["apples"], [[1] * 20, "x" * 50], [1] * 50),
        (pq.queue("apples", serializer=plain), "\U0001f34e" * 25, "\U0001f34e" * 25 + "x"),
        (pq.queue("apples", serializer=plain), b"x" * 100, b"x" * 101),
    ]:
        async with queue:
            id = await queue.put(fits)
            for call in (
                queue.put,
                lambda data, q=queue: q.put_many([data]),
                lambda data, q=queue, i=id: q.update(i, data),
            ):
                with pytest.raises(errors.PayloadTooLarge, match="101 bytes, and a job takes 100"):
                    await call(too_large)
        assert [job.data for job in await queue.get_many(9)] == [fits]
