"""Traces: spans for putting, taking, doing and settling jobs, by OpenTelemetry's conventions for messaging.

    from pgq_py import PQ, otel

    pq = PQ("postgresql://localhost/mydb")
    otel.instrument(pq)

Needs opentelemetry-api, pip install 'pgq-py[otel]', and an SDK to send the spans anywhere. No span has anything of
a job's data, nor the message of an exception, which may quote it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from time import time_ns
from typing import Any, Literal, TypeAlias, TypeVar

from opentelemetry import propagate, trace
from opentelemetry.context import Context, attach, detach, get_current
from opentelemetry.trace import Link, Span, SpanContext, SpanKind, Status, StatusCode, TracerProvider

from ._async.client import AsyncPQ
from ._async.job import AsyncJob
from ._async.session import AsyncDialSource, AsyncPoolSource
from ._sync.client import PQ
from ._sync.job import Job
from ._sync.session import DialSource, PoolSource
from ._version import __version__
from .calls import Call, Calls, JobId, Taken
from .codecs import Payload
from .errors import DecodeError
from .labels import task_of
from .links import server_of
from .times import Duration, When

T = TypeVar("T")
Attributes: TypeAlias = dict[str, str | int]
Kind: TypeAlias = Literal["send", "receive", "process", "settle"]

SYSTEM = "pgq_py"
"""`messaging.system`. The conventions have no name for a queue in PostgreSQL, and "postgresql" is a database."""

LEASE_LOST = "lease_lost"
"""The `error.type` of a job that could not be settled, because others may have it."""


def instrument(pq: PQ | AsyncPQ, tracer_provider: TracerProvider | None = None) -> None:
    """Trace what is done with the queues of this PQ from now on. Before its workers begin.

    - `put` and `put_many`: a span of kind PRODUCER, whose context travels in the jobs' headers beside the user's own.
      Headers that are no object, or have a context already, stay as they are; the span is of kind CLIENT then.
    - `get` and `lease`, and whatever takes: a span of kind CLIENT for each call that gave jobs or failed, with a link
      to the context of each job. Looking in vain is no span.
    - `with job`, `take`, `listen`, and each job of a worker: a span of kind CONSUMER, with a link to the job's context;
      its child, unless another span is current.
    - `complete`, `error` and `release`, and a worker's batches of them: a span of kind CLIENT.

    Args:
        pq: whose queues.
        tracer_provider: by default the global one.
    """
    uninstrument(pq)
    tracing = pq.tracing = Tracing(tracer_provider, _server_of(pq))
    pq.calls = TracedCalls(pq.schema, tracing)
    pq.hooks.insert(0, tracing.process)


def uninstrument(pq: PQ | AsyncPQ) -> None:
    """Trace no more. Spans that are open end as they would have."""
    if pq.tracing is not None:
        pq.hooks[:] = [hook for hook in pq.hooks if hook != pq.tracing.process]
    pq.tracing = None
    pq.calls = Calls(pq.schema)


class Tracing:
    """The spans of one PQ.

    Args:
        tracer_provider: by default the global one.
        common: attributes of all of them.
    """

    def __init__(self, tracer_provider: TracerProvider | None = None, common: Attributes | None = None) -> None:
        self._common: Attributes = {"messaging.system": SYSTEM, **(common or {})}
        self._tracer = trace.get_tracer("pgq_py", __version__, tracer_provider)

    @contextmanager
    def process(self, job: Job | AsyncJob) -> Iterator[None]:
        """A span around what is done with a job: a worker's hook."""
        attempt = job.attempts + (job.receipt is None)  # a lease has counted its own
        attributes: Attributes = {"messaging.message.id": str(job.id), "messaging.pgq_py.attempt": attempt}
        task = task_of(job)
        if task:
            attributes["messaging.pgq_py.task"] = task
        # Where nothing else is going on, the job continues what its producer began.
        is_free = not trace.get_current_span().get_span_context().is_valid
        sent = _extract(job.headers, get_current() if is_free else Context())
        with self.span(
            "process",
            "process",
            job.queue,
            SpanKind.CONSUMER,
            attributes,
            links=_links(sent),
            context=sent if is_free else None,
        ):
            yield

    @contextmanager
    def span(
        self,
        name: str,
        kind: Kind,
        queue: str | None,
        span_kind: SpanKind,
        attributes: Attributes,
        *,
        links: Sequence[Link] = (),
        context: Context | None = None,
    ) -> Iterator[Span]:
        """A span that is current in the block. An exception is its error.

        Args:
            name: of the operation.
            kind: of operation, in the terms of the conventions.
            queue: None if there are several.
            span_kind: of span.
            attributes: beside those that all have.
            links: to other spans.
            context: whose child it is; by default the current one's.
        """
        context = get_current() if context is None else context
        span = self.start(name, kind, queue, span_kind, attributes, links=links, context=context)
        token = attach(trace.set_span_in_context(span, context))
        try:
            yield span
        except BaseException as error:
            _fail(span, _name(type(error)))
            raise
        finally:
            detach(token)
            span.end()

    def start(
        self,
        name: str,
        kind: Kind,
        queue: str | None,
        span_kind: SpanKind,
        attributes: Attributes,
        *,
        links: Sequence[Link] = (),
        context: Context | None = None,
        start_time: int | None = None,
    ) -> Span:
        """A span that is not current; to be ended."""
        common: Attributes = {
            **self._common,
            "messaging.operation.name": name,
            "messaging.operation.type": kind,
        }
        if queue is not None:
            common["messaging.destination.name"] = queue
        return self._tracer.start_span(
            name if queue is None else f"{name} {queue}",
            context,
            span_kind,
            {**common, **attributes},
            links,
            start_time,
        )


class TracedCalls(Calls):
    """The calls, each run in a span."""

    def __init__(self, schema: str, tracing: Tracing) -> None:
        super().__init__(schema)
        self._tracing = tracing

    def put(
        self,
        queue: str,
        payload: Payload,
        schedule_at: When | None,
        expected_at: When | None,
        priority: int,
        dedupe_key: str | None,
        headers: Any,
        max_attempts: int | None,
        notify: bool,
    ) -> Call[JobId]:
        """One job."""

        def make(headers: Any) -> Call[JobId]:
            return Calls.put(
                self, queue, payload, schedule_at, expected_at, priority, dedupe_key, headers, max_attempts, notify
            )

        def describe(span: Span, id: JobId) -> None:
            span.set_attribute("messaging.message.id", str(id))

        return self._send("put", queue, headers, make, {}, describe)

    def put_many(
        self,
        queue: str,
        payloads: Sequence[Payload],
        schedule_at: When | None,
        expected_at: When | None,
        priority: int,
        dedupe_keys: Sequence[str | None] | None,
        headers: Any,
        max_attempts: int | None,
        notify: bool,
    ) -> Call[list[JobId]]:
        """Many jobs, which share their headers and so the context."""

        def make(headers: Any) -> Call[list[JobId]]:
            return Calls.put_many(
                self, queue, payloads, schedule_at, expected_at, priority, dedupe_keys, headers, max_attempts, notify
            )

        return self._send("put_many", queue, headers, make, _batch(len(payloads)), lambda span, ids: None)

    def get(self, queues: Sequence[str], count: int, promote: bool, unlisten: Sequence[str] = ()) -> Call[list[Taken]]:
        """Jobs taken."""
        return self._receive("get", queues, count, super().get(queues, count, promote, unlisten))

    def lease(
        self,
        queues: Sequence[str],
        count: int,
        lease_for: Duration | None,
        consumer: str,
        promote: bool,
        unlisten: Sequence[str] = (),
    ) -> Call[list[Taken]]:
        """Jobs leased."""
        return self._receive(
            "lease", queues, count, super().lease(queues, count, lease_for, consumer, promote, unlisten)
        )

    def complete(self, queue: str, id: int, receipt: bytes) -> Call[bool]:
        """A job done."""
        return self._settle("complete", queue, id, super().complete(queue, id, receipt))

    def error(
        self,
        queue: str,
        id: int,
        receipt: bytes | None,
        message: str | None,
        retry_in: Duration | None = None,
        bury: bool = False,
    ) -> Call[bool]:
        """An attempt that has failed."""
        return self._settle("error", queue, id, super().error(queue, id, receipt, message, retry_in, bury))

    def release(self, queue: str, id: int, receipt: bytes) -> Call[bool]:
        """A job returned."""
        return self._settle("release", queue, id, super().release(queue, id, receipt))

    def complete_many(self, queue: str, ids: Sequence[int], receipts: Sequence[bytes]) -> Call[list[bool]]:
        """Jobs done."""
        return self._settle_many("complete_many", queue, super().complete_many(queue, ids, receipts), len(ids))

    def error_many(
        self,
        queue: str,
        ids: Sequence[int],
        receipts: Sequence[bytes],
        messages: Sequence[str],
        retry_in: Duration | None = None,
        bury: bool = False,
    ) -> Call[list[bool]]:
        """Attempts that have failed."""
        call = super().error_many(queue, ids, receipts, messages, retry_in, bury)
        return self._settle_many("error_many", queue, call, len(ids))

    def release_many(self, queue: str, ids: Sequence[int], receipts: Sequence[bytes]) -> Call[list[bool]]:
        """Jobs returned."""
        return self._settle_many("release_many", queue, super().release_many(queue, ids, receipts), len(ids))

    def _send(
        self,
        name: str,
        queue: str,
        headers: Any,
        make: Callable[[Any], Call[T]],
        attributes: Attributes,
        describe: Callable[[Span, T], None],
    ) -> Call[T]:
        @contextmanager
        def sending() -> Iterator[Call[T]]:
            given = _links(_extract(headers))
            carries = not given and (headers is None or isinstance(headers, dict))
            kind = SpanKind.PRODUCER if carries else SpanKind.CLIENT
            with self._tracing.span(name, "send", queue, kind, attributes, links=given) as span:
                call = make(_inject(headers) if carries else headers)
                yield _watched(call, partial(describe, span))

        # Made once before there is a span: what is wrong with the arguments is no failure to send.
        return _traced(make(headers), sending)

    def _receive(self, name: str, queues: Sequence[str], count: int, call: Call[list[Taken]]) -> Call[list[Taken]]:
        @contextmanager
        def receiving() -> Iterator[Call[list[Taken]]]:
            begun, taken = time_ns(), list[Taken]()
            error: BaseException | None = None
            try:
                yield _watched(call, taken.extend)
            except BaseException as raised:
                error = raised
                raise
            finally:
                if taken or error is not None:
                    self._received(name, queues, count, taken, error, begun)

        return _traced(call, receiving)

    def _received(
        self, name: str, queues: Sequence[str], count: int, taken: list[Taken], error: BaseException | None, begun: int
    ) -> None:
        """A span after the fact: most looks are in vain, and would only be noise."""
        names = {row.queue for row in taken} or set(queues)
        attributes: Attributes = {}
        if count > 1:
            attributes = _batch(len(taken))
        elif taken:
            attributes = {"messaging.message.id": str(taken[0].id)}
        span = self._tracing.start(
            name,
            "receive",
            names.pop() if len(names) == 1 else None,
            SpanKind.CLIENT,
            attributes,
            links=[link for row in taken for link in _links(_extract(_headers_of(row)), _message(row))],
            start_time=begun,
        )
        if error is not None:
            _fail(span, _name(type(error)))
        span.end()

    def _settle(self, name: str, queue: str, id: int, call: Call[bool]) -> Call[bool]:
        def describe(span: Span, done: bool) -> None:
            if not done:
                _fail(span, LEASE_LOST)

        return self._settle_as(name, queue, call, {"messaging.message.id": str(id)}, describe)

    def _settle_many(self, name: str, queue: str, call: Call[list[bool]], count: int) -> Call[list[bool]]:
        # A few that came too late are no failure of the others.
        return self._settle_as(name, queue, call, _batch(count), lambda span, done: None)

    def _settle_as(
        self, name: str, queue: str, call: Call[T], attributes: Attributes, describe: Callable[[Span, T], None]
    ) -> Call[T]:
        @contextmanager
        def settling() -> Iterator[Call[T]]:
            with self._tracing.span(name, "settle", queue, SpanKind.CLIENT, attributes) as span:
                yield _watched(call, partial(describe, span))

        return _traced(call, settling)


def _server_of(pq: PQ | AsyncPQ) -> Attributes:
    """Where the PQ's jobs are, as far as that can be told without connecting."""
    source = pq._source
    address: Any = ""
    more: Any = {}
    if isinstance(source, DialSource | AsyncDialSource):
        address = source.conninfo
    elif isinstance(source, PoolSource | AsyncPoolSource):
        address, more = source._pool.conninfo, source._pool.kwargs or {}
    elif source._conn is not None and not source._conn.closed:
        more = {"host": source._conn.info.host, "port": source._conn.info.port}
    else:
        return {}
    # A pool may be given functions that tell them.
    found = None if callable(address) or callable(more) else server_of(address, more)
    if found is None:
        return {}
    host, port = found
    return {"server.address": host} | ({} if port is None else {"server.port": port})


def _batch(count: int) -> Attributes:
    return {"messaging.batch.message_count": count}


def _traced(call: Call[T], traced: Callable[[], AbstractContextManager[Call[T]]]) -> Call[T]:
    return Call(call.statement, call.params, call.read, call.dedupe_key, call.matters, call.wanted, traced)


def _watched(call: Call[T], note: Callable[[T], None]) -> Call[T]:
    """The call; its result is noted on the way."""

    def read(answer: Any) -> T:
        result = call.read(answer)
        note(result)
        return result

    return Call(call.statement, call.params, read, call.dedupe_key, call.matters, call.wanted)


def _extract(headers: Any, into: Context | None = None) -> Context:
    """The context that a job's headers carry, in an empty one or another. Anybody may have put them, with anything."""
    texts = {name: text for name, text in headers.items() if isinstance(text, str)} if isinstance(headers, dict) else {}
    return propagate.extract(texts, Context() if into is None else into)


def _inject(headers: dict[str, Any] | None) -> dict[str, Any] | None:
    carrier: dict[str, str] = {}
    propagate.inject(carrier)
    return {**(headers or {}), **carrier} if carrier else headers


def _links(context: Context, attributes: Attributes | None = None) -> list[Link]:
    """To the span that is in the context, if there is one."""
    sent: SpanContext = trace.get_current_span(context).get_span_context()
    return [Link(sent, attributes)] if sent.is_valid else []


def _headers_of(row: Taken) -> Any:
    try:
        return row.headers
    except DecodeError:
        return None  # the job is on its way to the dead


def _message(row: Taken) -> Attributes:
    return {"messaging.message.id": str(row.id), "messaging.destination.name": row.queue}


def _fail(span: Span, reason: str) -> None:
    span.set_attribute("error.type", reason)
    span.set_status(Status(StatusCode.ERROR))


def _name(kind: type[BaseException]) -> str:
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
