"""Traces: the spans of producers and consumers, and the context that travels with a job."""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from time import time_ns
from typing import Any

import psycopg
import psycopg_pool
import pytest
from conftest import Database
from opentelemetry import baggage, context, trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode
from sql_sessions import value
from working import Works, wait_for, works
from worlds import Background

from pgq_py import PQ, AsyncPQ, LeaseLost, errors, otel
from pgq_py.calls import Calls

# Text that stands in payloads only.
SECRET = "a-worm-in-the-apple"
TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
PARENT = f"00-{TRACE}-{SPAN}-01"


class Traces:
    """A provider, and the spans that have ended."""

    def __init__(self) -> None:
        self.provider = TracerProvider()
        self._exporter = InMemorySpanExporter()
        self.provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.tracer = self.provider.get_tracer("test")

    def take(self) -> list[ReadableSpan]:
        """Those since the last time."""
        spans = list(self._exporter.get_finished_spans())
        self._exporter.clear()
        return spans

    def one(self, name: str) -> ReadableSpan:
        (span,) = self.take()
        assert span.name == name
        return span


@pytest.fixture
def traces() -> Traces:
    return Traces()


@pytest.fixture
def pq(database: Database, traces: Traces) -> Iterator[PQ]:
    with PQ(database.dsn) as pq:
        otel.instrument(pq, traces.provider)
        yield pq


@pytest.fixture(autouse=True)
def nothing_is_left(caplog: Any) -> Iterator[None]:
    """No span is current at the end of a test, and none was left in another context than it was entered in."""
    yield
    assert not trace.get_current_span().get_span_context().is_valid
    assert [record for record in caplog.records if record.name.startswith("opentelemetry")] == []


def messaging(span: ReadableSpan) -> dict[str, Any]:
    """Its attributes, without what all have."""
    found = dict(span.attributes or {})
    assert found.pop("messaging.system") == "pgq_py"
    assert found.pop("server.address").startswith("/")
    return {name.removeprefix("messaging."): value for name, value in found.items()}


def ids(span: ReadableSpan) -> tuple[int, int]:
    return span.context.trace_id, span.context.span_id


def linked(span: ReadableSpan) -> list[tuple[int, int]]:
    return [(link.context.trace_id, link.context.span_id) for link in span.links]


def parent(span: ReadableSpan) -> tuple[int, int] | None:
    return None if span.parent is None else (span.parent.trace_id, span.parent.span_id)


def carried(headers: Any) -> tuple[int, int]:
    """The context in a job's headers."""
    found = re.fullmatch(r"00-(\w{32})-(\w{16})-\w\w", headers["traceparent"])
    assert found is not None
    return int(found[1], 16), int(found[2], 16)


def leased(pq: PQ, queue: str = "apples", **options: Any) -> Any:
    job = pq[queue].lease(block=False, **options)
    assert job is not None
    return job


def got(pq: PQ, queue: str = "apples") -> Any:
    job = pq[queue].get(block=False)
    assert job is not None
    return job


# Where the server is


@pytest.mark.parametrize(
    ("given", "environ", "address", "port"),
    [
        ("postgresql://db.example:6432/shop", {}, "db.example", 6432),
        ("host=db.example", {}, "db.example", 5432),
        ("hostaddr=127.0.0.1", {}, "127.0.0.1", 5432),
        ("host=/run/nowhere port=6432", {}, "/run/nowhere/.s.PGSQL.6432", None),
        ("dbname=shop", {"PGHOST": "db.example", "PGPORT": "6432"}, "db.example", 6432),
        ("", {}, None, None),
        ("host=one,two", {}, None, None),
        ("service=shop", {"PGHOST": "elsewhere"}, None, None),
        ("no address", {}, None, None),
    ],
)
@pytest.mark.parametrize("way", ["address", "pool"])
def test_the_server_is_told_as_far_as_it_is_known_without_connecting(
    traces: Traces, monkeypatch: Any, way: str, given: str, environ: dict[str, str], address: str, port: int
) -> None:
    for name in ("PGHOST", "PGPORT", "PGHOSTADDR", "PGSERVICE"):
        monkeypatch.delenv(name, raising=False)
    for name, to in environ.items():
        monkeypatch.setenv(name, to)
    # Closed: every call fails, before anybody connects.
    pq = PQ(given) if way == "address" else PQ(pool=psycopg_pool.ConnectionPool(given, open=False))
    otel.instrument(pq, traces.provider)
    pq.close()
    with pytest.raises(errors.Closed):
        pq["apples"].put(1)
    found = dict(traces.one("put apples").attributes or {})
    assert (found.get("server.address"), found.get("server.port")) == (address, port)


def test_the_parameters_of_a_pool_go_before_its_address(traces: Traces) -> None:
    pq = PQ(pool=psycopg_pool.ConnectionPool("host=one", kwargs={"host": "two", "port": 6432}, open=False))
    otel.instrument(pq, traces.provider)
    with pytest.raises(psycopg.Error):
        pq["apples"].put(1)
    found = dict(traces.one("put apples").attributes or {})
    assert (found["server.address"], found["server.port"]) == ("two", 6432)


def test_a_pool_that_asks_a_function_where_to_connect_is_not_asked(traces: Traces) -> None:
    pq = PQ(pool=psycopg_pool.ConnectionPool(lambda: "host=one", open=False))
    otel.instrument(pq, traces.provider)
    with pytest.raises(psycopg.Error):
        pq["apples"].put(1)
    assert "server.address" not in dict(traces.one("put apples").attributes or {})


def test_of_a_connection_the_server_is_the_one_that_it_has(traces: Traces, conn: Any, server: Any) -> None:
    pq = PQ(conn)
    otel.instrument(pq, traces.provider)
    pq["apples"].put(1)
    found = dict(traces.one("put apples").attributes or {})
    assert found["server.address"] == f"{server.host}/.s.PGSQL.{server.port}"


# Producers


def test_a_put_is_a_span_whose_context_travels_in_the_headers(pq: PQ, traces: Traces) -> None:
    id = pq["apples"].put(SECRET)
    span = traces.one("put apples")
    assert span.kind is SpanKind.PRODUCER
    assert span.parent is None
    assert span.status.status_code is StatusCode.UNSET
    assert messaging(span) == {
        "operation.name": "put",
        "operation.type": "send",
        "destination.name": "apples",
        "message.id": str(id),
    }
    assert carried(got(pq).headers) == ids(span)


def test_it_is_a_child_of_the_current_span(pq: PQ, traces: Traces) -> None:
    with traces.tracer.start_as_current_span("request") as request:
        pq["apples"].put(1)
    put, outer = traces.take()
    assert put.name == "put apples"
    assert parent(put) == ids(outer)
    assert request.get_span_context().trace_id == carried(got(pq).headers)[0]


def test_a_batch_is_one_span_and_shares_its_context(pq: PQ, traces: Traces) -> None:
    pq["apples"].put_many([1, 2, 3], headers={"color": "red"})
    span = traces.one("put_many apples")
    assert span.kind is SpanKind.PRODUCER
    assert messaging(span) == {
        "operation.name": "put_many",
        "operation.type": "send",
        "destination.name": "apples",
        "batch.message_count": 3,
    }
    for job in pq["apples"].get_many(3):
        assert carried(job.headers) == ids(span)
        assert job.headers["color"] == "red"


def test_the_users_headers_stay_and_are_not_written_to(pq: PQ) -> None:
    headers = {"color": "red", "sizes": [1, 2]}
    pq["apples"].put(1, headers=headers)
    assert headers == {"color": "red", "sizes": [1, 2]}
    found = got(pq).headers
    assert found == {**headers, "traceparent": found["traceparent"]}


@pytest.mark.parametrize("headers", [[1, 2], "text", 5, False])
def test_headers_that_are_no_object_are_left_alone(pq: PQ, traces: Traces, headers: Any) -> None:
    pq["apples"].put(1, headers=headers)
    span = traces.one("put apples")
    # A producer's context is what consumers link to, and here there is none.
    assert span.kind is SpanKind.CLIENT
    job = leased(pq)
    assert job.headers == headers
    with job:
        pass
    _, complete, process = traces.take()
    assert (complete.name, process.name) == ("complete apples", "process apples")
    assert linked(process) == []
    assert process.parent is None


def test_a_context_that_the_user_gives_is_not_replaced(pq: PQ, traces: Traces) -> None:
    pq["apples"].put(1, headers={"traceparent": PARENT})
    span = traces.one("put apples")
    assert span.kind is SpanKind.CLIENT
    assert linked(span) == [(int(TRACE, 16), int(SPAN, 16))]
    assert got(pq).headers == {"traceparent": PARENT}


def test_what_fails_is_an_error_of_its_span(pq: PQ, traces: Traces) -> None:
    pq["apples"].configure(max_depth=1)
    pq["apples"].put(1)
    traces.take()
    with pytest.raises(Exception, match="full"):
        pq["apples"].put(SECRET)
    span = traces.one("put apples")
    assert span.status.status_code is StatusCode.ERROR
    assert (
        messaging(span)["error.type"]
        if False
        else dict(span.attributes or {})["error.type"] == ("pgq_py.errors.QueueFull")
    )
    assert span.status.description is None
    assert span.events == ()


def test_without_a_connection_it_is_an_error_too(traces: Traces) -> None:
    with PQ("postgresql://localhost:1/nowhere") as pq:
        otel.instrument(pq, traces.provider)
        with pytest.raises(psycopg.OperationalError):
            pq["apples"].put(1)
    assert traces.one("put apples").status.status_code is StatusCode.ERROR


def test_what_is_wrong_with_the_arguments_is_no_span(pq: PQ, traces: Traces) -> None:
    with pytest.raises(ValueError, match="is not a time"):
        pq["apples"].put(1, "one fine day")
    assert traces.take() == []


def test_a_put_joins_the_open_transaction_as_ever(pq: PQ, traces: Traces) -> None:
    def put_and_fail() -> None:
        with pq["apples"]:
            pq["apples"].put(1)
            raise KeyError

    with pytest.raises(KeyError):
        put_and_fail()
    assert pq["apples"].count() == 0
    assert traces.one("put apples").status.status_code is StatusCode.UNSET


# Consumers


def test_a_get_links_to_the_producer(pq: PQ, traces: Traces) -> None:
    id = pq["apples"].put(SECRET)
    put = traces.one("put apples")
    got(pq)
    span = traces.one("get apples")
    assert span.kind is SpanKind.CLIENT
    assert messaging(span) == {
        "operation.name": "get",
        "operation.type": "receive",
        "destination.name": "apples",
        "message.id": str(id),
    }
    assert linked(span) == [ids(put)]
    assert dict(span.links[0].attributes or {}) == {
        "messaging.message.id": str(id),
        "messaging.destination.name": "apples",
    }


def test_a_get_lasts_from_its_statement_to_its_jobs(
    pq: PQ, traces: Traces, conn: psycopg.Connection[Any], database: Database
) -> None:
    pq["apples"].put(1)
    traces.take()
    with database.connect(autocommit=False) as blocker:
        blocker.execute("lock queue_job in access exclusive mode")
        getting = Background(got, pq)
        waiting = """select count(*) from pg_stat_activity
            where wait_event_type = 'Lock' and datname = current_database()"""
        wait_for(lambda: value(conn, waiting))
        meanwhile = time_ns()
        blocker.rollback()
    getting.result()
    span = traces.one("get apples")
    assert span.start_time is not None
    assert span.end_time is not None
    assert span.start_time < meanwhile < span.end_time


def test_a_batch_links_to_each_producer(pq: PQ, traces: Traces) -> None:
    for n in range(2):
        pq["apples"].put(n)
    pq["pears"].put(2)
    puts = traces.take()
    assert len(pq["apples", "pears"].lease_many(9)) == 3
    span = traces.one("lease")
    assert messaging(span) == {"operation.name": "lease", "operation.type": "receive", "batch.message_count": 3}
    assert sorted(linked(span)) == sorted(ids(put) for put in puts)
    pq["pears"].put(3)
    assert pq["apples", "pears"].get(block=False) is not None
    assert traces.take()[-1].name == "get pears"


def test_looking_in_vain_is_no_span(pq: PQ, traces: Traces) -> None:
    assert pq["apples"].get(block=False) is None
    assert pq["apples"].get(timeout=0.01) is None
    assert pq["apples"].lease_many(5) == []
    assert traces.take() == []


def test_a_take_that_fails_is_an_error(pq: PQ, traces: Traces, conn: psycopg.Connection[Any]) -> None:
    pq["apples"].count()
    conn.execute("alter function queue_get rename to queue_gone")
    with pytest.raises(psycopg.Error):
        pq["apples"].get(block=False)
    span = traces.one("get apples")
    assert span.status.status_code is StatusCode.ERROR
    assert "error.type" in dict(span.attributes or {})


def test_a_job_is_processed_in_the_producers_trace(pq: PQ, traces: Traces) -> None:
    @pq["apples"].task(name="pick")
    def pick(what: str) -> None: ...

    id = pick(SECRET)
    put = traces.one("put apples")
    with leased(pq), traces.tracer.start_as_current_span("inside"):
        pass
    lease, inside, complete, process = traces.take()
    assert [span.name for span in (lease, complete, process)] == ["lease apples", "complete apples", "process apples"]
    assert process.kind is SpanKind.CONSUMER
    assert parent(process) == ids(put)
    assert linked(process) == [ids(put)]
    assert messaging(process) == {
        "operation.name": "process",
        "operation.type": "process",
        "destination.name": "apples",
        "message.id": str(id),
        "pgq_py.attempt": 1,
        "pgq_py.task": "pick",
    }
    assert complete.kind is SpanKind.CLIENT
    assert messaging(complete) == {
        "operation.name": "complete",
        "operation.type": "settle",
        "destination.name": "apples",
        "message.id": str(id),
    }
    assert parent(inside) == parent(complete) == ids(process)


def test_a_job_that_is_put_through_another_connection_carries_the_context_too(
    pq: PQ, traces: Traces, conn: psycopg.Connection[Any]
) -> None:
    @pq["apples"].task(name="pick")
    def pick() -> None: ...

    pick.put_in(conn)
    assert ids(traces.one("put apples")) == carried(got(pq).headers)


def test_inside_another_span_it_is_that_ones_child(pq: PQ, traces: Traces) -> None:
    pq["apples"].put(1)
    put = traces.one("put apples")
    with traces.tracer.start_as_current_span("script"), leased(pq):
        pass
    *_, process, script = traces.take()
    assert parent(process) == ids(script)
    assert linked(process) == [ids(put)]


def test_an_sql_producer_passes_the_context_on(pq: PQ, traces: Traces, conn: psycopg.Connection[Any]) -> None:
    conn.execute("select queue_put('apples', '1', headers => %s)", [f'{{"traceparent": "{PARENT}"}}'])
    with leased(pq):
        pass
    process = traces.take()[-1]
    assert parent(process) == (int(TRACE, 16), int(SPAN, 16))
    assert linked(process) == [(int(TRACE, 16), int(SPAN, 16))]


@pytest.mark.parametrize(
    "headers", ['{"traceparent": 5}', '{"traceparent": "00-x"}', '{"tracestate": [], "baggage": {}}', "null", "[]", "7"]
)
def test_headers_may_hold_anything(pq: PQ, traces: Traces, conn: psycopg.Connection[Any], headers: str) -> None:
    conn.execute("select queue_put('apples', '1', headers => %s)", [headers])
    with leased(pq):
        pass
    assert [span.name for span in traces.take()] == ["lease apples", "complete apples", "process apples"]


def test_a_job_whose_headers_cannot_be_read_goes_to_the_dead(pq: PQ, conn: psycopg.Connection[Any]) -> None:
    """More digits than Python reads."""
    for _ in range(3):
        conn.execute("""select queue_put('apples', '1', headers => ('{"n": ' || repeat('9', 5000) || '}')::jsonb)""")
    assert pq["apples"].get(block=False) is None
    conn.execute("select queue_redrive('apples')")
    assert pq["apples"].lease(block=False) is None
    conn.execute("select queue_redrive('apples')")
    with pq["apples"].take(block=False) as job:
        assert job is None
    assert value(conn, "select count(*) from queue_dead_list('apples')") == 3


def test_state_and_baggage_travel_too(pq: PQ, conn: psycopg.Connection[Any]) -> None:
    token = context.attach(baggage.set_baggage("tenant", "orchard"))
    try:
        pq["apples"].put(1)
    finally:
        context.detach(token)
    job = leased(pq)
    assert job.headers["baggage"] == "tenant=orchard"
    with job:
        assert baggage.get_baggage("tenant") == "orchard"
    assert baggage.get_baggage("tenant") is None


def test_a_failure_is_the_error_of_the_processing(pq: PQ, traces: Traces) -> None:
    pq["apples"].put(SECRET)
    with pytest.raises(LookupError), leased(pq) as data:
        raise LookupError(data)
    _, _, error, process = traces.take()
    assert error.name == "error apples"
    assert error.status.status_code is StatusCode.UNSET
    assert process.status.status_code is StatusCode.ERROR
    assert dict(process.attributes or {})["error.type"] == "LookupError"
    with pytest.raises(KeyboardInterrupt), leased_now(pq, traces):
        raise KeyboardInterrupt
    assert [span.name for span in traces.take()] == ["release apples", "process apples"]


def leased_now(pq: PQ, traces: Traces) -> Any:
    """A job put and leased, of which nothing was traced."""
    pq["apples"].put(1)
    job = leased(pq)
    traces.take()
    return job


def test_a_lost_lease_is_an_error(pq: PQ, traces: Traces, conn: psycopg.Connection[Any]) -> None:
    job = leased_now(pq, traces)
    conn.execute("select queue_cancel('apples', %s)", [job.id])
    assert job.complete() is False
    span = traces.one("complete apples")
    assert span.status.status_code is StatusCode.ERROR
    assert dict(span.attributes or {})["error.type"] == "lease_lost"
    with pytest.raises(LeaseLost), job:
        pass
    complete, process = traces.take()
    assert dict(complete.attributes or {})["error.type"] == "lease_lost"
    assert dict(process.attributes or {})["error.type"] == "pgq_py.errors.LeaseLost"


def test_release_and_error_settle(pq: PQ, traces: Traces) -> None:
    leased_now(pq, traces).release()
    assert messaging(traces.one("release apples"))["operation.type"] == "settle"
    job = leased(pq)
    traces.take()
    job.error("a worm")
    assert messaging(traces.one("error apples"))["operation.type"] == "settle"


def test_nested_blocks_of_a_job_are_one_span(pq: PQ, traces: Traces) -> None:
    job = leased_now(pq, traces)
    with job, job:
        pass
    assert [span.name for span in traces.take()] == ["complete apples", "process apples"]


def test_take_is_processing_too(pq: PQ, traces: Traces) -> None:
    pq["apples"].put(1)
    put = traces.one("put apples")
    with pq["apples"].take() as job:
        assert job is not None
        pq["pears"].put(2)
    get, put_pears, process = traces.take()
    assert (get.name, put_pears.name) == ("get apples", "put pears")
    assert process.name == "process apples"
    assert parent(process) == ids(put)
    assert parent(put_pears) == ids(process)
    assert messaging(process)["pgq_py.attempt"] == 1
    with pq["apples"].take(block=False) as job:
        assert job is None
    assert traces.take() == []
    pq["apples"].put(1)
    with pytest.raises(ValueError, match="worm"), pq["apples"].take():
        raise ValueError("worm")
    assert [span.name for span in traces.take()] == ["put apples", "get apples", "error apples", "process apples"]


def test_a_loop_over_listen_has_a_span_for_each_job(pq: PQ, traces: Traces) -> None:
    pq["apples"].put_many([1, 2, 3])
    traces.take()
    for job in pq["apples"].listen():
        assert trace.get_current_span().get_span_context().is_valid
        if job.data == 2:
            break
    assert not trace.get_current_span().get_span_context().is_valid
    names = [span.name for span in traces.take()]
    assert names == ["get apples", "process apples"] * 2
    assert pq["apples"].count() == 2


def test_a_loop_over_listen_that_fails_is_an_error(pq: PQ, traces: Traces) -> None:
    pq["apples"].put(1)
    traces.take()

    def fail() -> None:
        for _ in pq["apples"].listen():
            raise ValueError(SECRET)

    with pytest.raises(ValueError, match=SECRET):
        fail()
    (process,) = [span for span in traces.take() if span.name == "process apples"]
    assert process.status.status_code is StatusCode.ERROR
    assert messaging(process)["error.type"] == "pgq_py.failures.LoopFailed"
    assert SECRET not in process.to_json()


# In asyncio


async def test_all_of_it_in_asyncio(database: Database, traces: Traces) -> None:
    async with AsyncPQ(database.dsn) as pq:
        otel.instrument(pq, traces.provider)
        queue = pq["apples"]
        await queue.put(SECRET)
        put = traces.one("put apples")
        job = await queue.lease(block=False)
        assert job is not None
        async with job, job.keep_alive():
            with traces.tracer.start_as_current_span("inside"):
                await asyncio.sleep(0)
        lease, inside, complete, process = traces.take()
        assert [span.name for span in (lease, complete, process)] == [
            "lease apples",
            "complete apples",
            "process apples",
        ]
        assert linked(lease) == [ids(put)]
        assert parent(process) == ids(put)
        assert parent(inside) == parent(complete) == ids(process)
        await queue.put_many([1, 2])
        with pytest.raises(LookupError):
            async with queue.take() as job:
                raise LookupError
        names = [span.name for span in traces.take()]
        assert names == ["put_many apples", "get apples", "error apples", "process apples"]


async def test_tasks_have_each_their_own_span(database: Database, traces: Traces) -> None:
    async with AsyncPQ(database.dsn) as pq:
        otel.instrument(pq, traces.provider)
        for n in range(5):
            await pq["apples"].put(n)
        puts = {ids(span) for span in traces.take()}
        jobs = await pq["apples"].lease_many(5)
        all_in = asyncio.Barrier(5)

        async def work(job: Any) -> tuple[int, int]:
            async with job:
                await all_in.wait()
                current = trace.get_current_span().get_span_context()
                return current.trace_id, current.span_id

        inside = await asyncio.gather(*map(work, jobs))
        processed = [span for span in traces.take() if span.name == "process apples"]
        assert {ids(span) for span in processed} == set(inside)
        assert {parent(span) for span in processed} == puts


async def test_a_loop_over_listen_that_is_left_leaves_no_span_behind(database: Database, traces: Traces) -> None:
    async with AsyncPQ(database.dsn) as pq:
        otel.instrument(pq, traces.provider)
        await pq["apples"].put_many([1, 2])
        async for job in pq["apples"].listen():
            assert trace.get_current_span().get_span_context().is_valid
            assert job.data == 1
            break
        assert not trace.get_current_span().get_span_context().is_valid
    *others, process = traces.take()
    assert [span.name for span in others] == ["put_many apples", "get apples"]
    assert process.name == "process apples"
    assert process.status.status_code is StatusCode.UNSET


# In a worker


@pytest.fixture(params=["threads", "asyncio"])
def at_work(request: pytest.FixtureRequest, database: Database) -> Iterator[Works]:
    """Workers of each kind."""
    with works(request.param, database.dsn) as made:
        yield made


@pytest.mark.parametrize("is_coroutine", [False, True])
def test_a_worker_does_each_job_in_a_span_that_continues_its_producers(
    at_work: Works, pq: PQ, traces: Traces, is_coroutine: bool
) -> None:
    queue = pq["apples"]
    queue.configure(retry_in="1h")
    wanted = {str(queue.put(n, headers={"traceparent": f"00-{n + 1:032x}-{SPAN}-01"})): n + 1 for n in range(5)}
    traces.take()
    inside = {}

    def handle(job: Any) -> None:
        inside[str(job.id)] = trace.get_current_span().get_span_context()
        if job.data == 3:
            raise LookupError(SECRET)

    async def handle_later(job: Any) -> None:
        await asyncio.sleep(0)
        handle(job)

    at_work.run(
        prepare=lambda mine: otel.instrument(mine, traces.provider), handler=handle_later if is_coroutine else handle
    )
    spans = traces.take()
    processed = {messaging(span)["message.id"]: span for span in spans if span.name == "process apples"}
    assert set(processed) == set(wanted) == set(inside)
    for id, span in processed.items():
        assert span.kind is SpanKind.CONSUMER
        assert parent(span) == (wanted[id], int(SPAN, 16))
        assert linked(span) == [(wanted[id], int(SPAN, 16))]
        assert ids(span) == (inside[id].trace_id, inside[id].span_id)
    assert [
        dict(span.attributes or {})["error.type"]
        for span in processed.values()
        if span.status.status_code is StatusCode.ERROR
    ] == ["LookupError"]
    received = [trace_id for span in spans if span.name == "lease apples" for trace_id, _ in linked(span)]
    assert sorted(received) == sorted(wanted.values())
    settled = dict.fromkeys(("complete_many apples", "error_many apples"), 0)
    for span in spans:
        if span.name in settled:
            assert span.kind is SpanKind.CLIENT
            settled[span.name] += messaging(span)["batch.message_count"]
    assert settled == {"complete_many apples": 4, "error_many apples": 1}
    assert SECRET not in "".join(span.to_json() for span in spans)


def test_the_hooks_of_a_pq_are_around_those_of_the_worker(at_work: Works, pq: PQ, traces: Traces) -> None:
    pq["apples"].put(1)
    order: list[str] = []

    @contextmanager
    def noted(name: str) -> Iterator[None]:
        order.append(f"{name} begins")
        assert trace.get_current_span().get_span_context().is_valid
        yield
        order.append(f"{name} ends")

    def prepare(mine: Any) -> None:
        mine.hooks.append(lambda job: noted("pq's"))
        otel.instrument(mine, traces.provider)

    at_work.run(prepare=prepare, handler=lambda job: None, hooks=[lambda job: noted("worker's")])
    assert order == ["pq's begins", "worker's begins", "worker's ends", "pq's ends"]


# What is in no span, and what it costs to have none


def test_nothing_of_the_data_is_in_any_span(pq: PQ, traces: Traces) -> None:
    queue = pq["apples"]
    queue.put({"task": SECRET, "args": [SECRET]}, dedupe_key=SECRET, headers={"note": SECRET})
    queue.put_many([SECRET])
    for job in queue.lease_many(2):
        with pytest.raises(ValueError, match=SECRET), job:
            raise ValueError(SECRET)
    queue.put(SECRET)
    job = leased(pq, lease_for=timedelta(minutes=1))
    job.error(SECRET, bury=True)
    queue.put(SECRET)
    got(pq)
    spans = traces.take()
    assert len(spans) > 10
    assert SECRET not in "".join(span.to_json() for span in spans)


def test_what_is_no_longer_instrumented_is_as_before(pq: PQ, traces: Traces) -> None:
    otel.instrument(pq, traces.provider)
    otel.uninstrument(pq)
    otel.uninstrument(pq)
    assert type(pq.calls) is Calls
    assert pq.hooks == []
    pq["apples"].put(1)
    with leased(pq) as data:
        assert data == 1
    pq["apples"].put(1)
    assert got(pq).headers is None
    assert traces.take() == []


def test_another_pq_is_not_traced(pq: PQ, database: Database, traces: Traces) -> None:
    with PQ(database.dsn) as other:
        other["apples"].put(1)
        assert got(other).headers is None
    assert traces.take() == []


def test_not_instrumented_nothing_of_it_is_called(database: Database) -> None:
    called: set[str] = set()

    def note(frame: Any, event: str, arg: Any) -> None:
        if event == "call":
            called.add(f"{Path(frame.f_code.co_filename).name}:{frame.f_code.co_name}")

    with PQ(database.dsn) as pq:
        pq["apples"].put_many([1, 2, 3])
        sys.setprofile(note)
        try:
            pq["apples"].put(4)
            pq["apples"].get(block=False)
            with pq["apples"].take():
                pass
            with leased(pq):
                pass
        finally:
            sys.setprofile(None)
    assert {"client.py:run", "queue.py:take", "job.py:__exit__"} <= called
    assert [name for name in called if name.startswith("otel.py:") or name == "failures.py:leaving"] == []


def test_the_options_of_a_put_are_kept(pq: PQ, conn: psycopg.Connection[Any]) -> None:
    pq["apples"].put(1, "1h", priority=3, dedupe_key="k", max_attempts=2)
    assert value(conn, "select - rank from queue_job") == 3
    assert value(conn, "select dedupe_key from queue_job") == "k"
    again = pq["apples"].put(1, dedupe_key="k")
    assert again.is_new is False
