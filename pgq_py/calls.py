"""The calls: for each SQL function its statement, its parameters and what its rows mean.

Nothing here does I/O, and no other module knows SQL. The functions are called under the
name of their schema and with named arguments, so that no search_path matters.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Generic, NamedTuple, TypeVar

from psycopg import sql

from .codecs import JSON, Payload
from .errors import BadName, PayloadError
from .times import When, at_or_in

T = TypeVar("T")
Row = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """One statement, ready to run, and how to read its rows."""

    statement: bytes
    params: Sequence[Any] | None
    read: Callable[[list[Row]], T]


class Taken(NamedTuple):
    """A row of `queue_get` or `queue_list`, as it comes."""

    queue: str
    id: int
    payload: Payload
    priority: int
    enqueued_at: datetime
    schedule_at: datetime | None
    expected_at: datetime | None
    attempts: int
    max_attempts: int | None
    last_error: str | None
    progress_count: int | None
    consumer: str | None
    dedupe_key: str | None
    headers: str | None


@dataclass(frozen=True, slots=True)
class Stats:
    """What is in a queue: see `queue_stats` in the reference."""

    queue: str
    ready: int
    scheduled: int
    retrying: int
    leased: int
    dead: int
    paused: bool
    oldest_ready_at: datetime | None
    next_due_at: datetime | None


def check_name(name: str) -> str:
    """The name of a queue, if it is one: 1 to 255 bytes, no NUL.

    Raises:
        BadName: otherwise; a ValueError.
    """
    if not isinstance(name, str):
        raise BadName(f"the name of a queue is text, not {type(name).__name__}")
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        raise BadName("the name of a queue has half of a surrogate pair, which is not Unicode text") from None
    if not 1 <= size <= 255 or "\0" in name:
        raise BadName(f"the name of a queue has {size} bytes; it needs 1 to 255, and no NUL")
    return name


def check_count(count: int) -> int:
    """A number of jobs to ask for.

    Raises:
        ValueError: below 1.
    """
    if count < 1:
        raise ValueError(f"{count} jobs can't be taken: ask for at least one")
    return count


def _first(rows: list[Row]) -> Any:
    return rows[0][0]


def _nothing(rows: list[Row]) -> None:
    return None


def _column(rows: list[Row]) -> list[Any]:
    return [row[0] for row in rows]


def _stats(rows: list[Row]) -> list[Stats]:
    return [Stats(*row) for row in rows]


_JOB = (
    "id, data, data_text, data_bytes, priority, enqueued_at, schedule_at, expected_at, attempts, "
    "max_attempts, last_error, progress_count, consumer, dedupe_key, headers"
)


def _headers(headers: Any) -> str | None:
    return None if headers is None else JSON.encode(headers).json


def _taken(queue: str, row: Row) -> Taken:
    return Taken(queue, row[0], Payload(*row[1:4]), *row[4:])


def _one_kind(payloads: Sequence[Payload]) -> tuple[list[Any] | None, list[Any] | None, list[Any] | None]:
    """The three arrays of a batch; all payloads of a codec's batch must be of one kind."""
    kinds = tuple([payload[n] for payload in payloads] for n in range(3))
    used = [kind if any(value is not None for value in kind) else None for kind in kinds]
    if sum(kind is not None for kind in used) > 1:
        raise PayloadError("a batch is all text or all bytes: the serializer gave some of each")
    return used[0], used[1], used[2]


class Calls:
    """The calls into one schema."""

    def __init__(self, schema: str) -> None:
        # A percent sign would be read as a placeholder's.
        name = sql.Identifier(schema).as_string(None).replace("%", "%%")

        def function(text: str) -> bytes:
            return text.replace("{schema}", name).encode()

        options = (
            "schedule_at => %s, schedule_in => %s, expected_at => %s, expected_in => %s, "
            "priority => %s::int, headers => %s::jsonb, max_attempts => %s::int, notify => %s"
        )
        self._version = function("select {schema}.queue_version()")
        self._isolation = b"select current_setting('transaction_isolation')"
        self._put = function(
            "select {schema}.queue_put(queue => %s, data => %s::jsonb, data_text => %s, data_bytes => %s, "
            "dedupe_key => %s::text, " + options + ")"
        )
        self._put_many = function(
            "select id from {schema}.queue_put_many(queue => %s, data => %s::jsonb[], data_text => %s::text[], "
            "data_bytes => %s::bytea[], dedupe_keys => %s::text[], " + options + ")"
        )
        self._get = function("select " + _JOB + " from {schema}.queue_get(%s, %s::int, %s)")
        self._get_any = function("select queue, " + _JOB + " from {schema}.queue_get_any(%s::text[], %s::int, %s)")
        self._wait = function("select min({schema}.queue_wait(name)) from unnest(%s::text[]) as name")
        self._next = function("select clock_timestamp() + {schema}.queue_wait(%s)")
        self._channels = function("select {schema}.queue_channel(name) from unnest(%s::text[]) as name")
        self._update = function(
            "select {schema}.queue_update(%s, %s::bigint, data => %s::jsonb, data_text => %s, data_bytes => %s)"
        )
        self._cancel = function("select {schema}.queue_cancel(%s, %s::bigint)")
        self._list = function("select " + _JOB + " from {schema}.queue_list(%s, scheduled => %s, count => %s::int)")
        self._count = function("select {schema}.queue_count(%s, scheduled => %s)")
        self._clear = function("select {schema}.queue_clear(%s)")
        self._create = function("select {schema}.queue_create(%s)")
        self._drop = function("select {schema}.queue_drop(%s)")
        self._pause = function("select {schema}.queue_pause(%s)")
        self._resume = function("select {schema}.queue_resume(%s)")
        self._stats = function("select * from {schema}.queue_stats(%s)")
        self._bury = function(
            "select {schema}.queue_bury(queue => %s, id => %s, reason => %s, data => %s::jsonb, data_text => %s, "
            "data_bytes => %s, priority => %s, enqueued_at => %s, schedule_at => %s, expected_at => %s, "
            "attempts => %s, max_attempts => %s, consumer => %s, dedupe_key => %s, headers => %s::jsonb)"
        )

    def version(self) -> Call[str]:
        """The version of the installed schema."""
        return Call(self._version, (), _first)

    def isolation(self) -> Call[str]:
        """The isolation level of the transaction."""
        return Call(self._isolation, (), _first)

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
    ) -> Call[int]:
        """One job; reads its id."""
        options = (*at_or_in("schedule_at", schedule_at), *at_or_in("expected_at", expected_at))
        return Call(
            self._put,
            (queue, *payload, dedupe_key, *options, priority, _headers(headers), max_attempts, notify),
            _first,
        )

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
    ) -> Call[list[int]]:
        """A batch of jobs; reads their ids in order."""
        options = (*at_or_in("schedule_at", schedule_at), *at_or_in("expected_at", expected_at))
        keys = None if dedupe_keys is None else list(dedupe_keys)
        arrays = _one_kind(payloads)
        return Call(
            self._put_many,
            (queue, *arrays, keys, *options, priority, _headers(headers), max_attempts, notify),
            _column,
        )

    def get(self, queues: Sequence[str], count: int, promote: bool) -> Call[list[Taken]]:
        """Up to COUNT jobs of one queue or of several in turn."""
        if len(queues) == 1:
            name = queues[0]
            return Call(self._get, (name, count, promote), lambda rows: [_taken(name, row) for row in rows])
        return Call(
            self._get_any,
            (list(queues), count, promote),
            lambda rows: [_taken(row[0], row[1:]) for row in rows],
        )

    def wait(self, queues: Sequence[str]) -> Call[timedelta | None]:
        """How long until the next job comes due."""
        return Call(self._wait, (list(queues),), _first)

    def next_at(self, queue: str) -> Call[datetime | None]:
        """When the next job comes due."""
        return Call(self._next, (queue,), _first)

    def channels(self, queues: Sequence[str]) -> Call[list[str]]:
        """The channels to listen on."""
        return Call(self._channels, (list(queues),), _column)

    def listen(self, channels: Sequence[str], verb: str = "listen") -> Call[None]:
        """Start (or, with the verb unlisten, stop) to listen on channels, in one message."""
        names = (sql.Identifier(channel).as_string(None) for channel in channels)
        return Call("; ".join(f"{verb} {name}" for name in names).encode(), None, _nothing)

    def update(self, queue: str, id: int, payload: Payload) -> Call[bool]:
        """Other data for a job."""
        return Call(self._update, (queue, id, *payload), _first)

    def cancel(self, queue: str, id: int) -> Call[bool]:
        """A job removed."""
        return Call(self._cancel, (queue, id), _first)

    def listing(self, queue: str, scheduled: bool, count: int | None) -> Call[list[Taken]]:
        """The jobs, left where they are."""
        return Call(self._list, (queue, scheduled, count), lambda rows: [_taken(queue, row) for row in rows])

    def count(self, queue: str, scheduled: bool) -> Call[int]:
        """The number of jobs."""
        return Call(self._count, (queue, scheduled), _first)

    def clear(self, queue: str) -> Call[int]:
        """All jobs removed."""
        return Call(self._clear, (queue,), _first)

    def create(self, queue: str) -> Call[bool]:
        """A queue known by name."""
        return Call(self._create, (queue,), _first)

    def drop(self, queue: str) -> Call[bool]:
        """A queue removed."""
        return Call(self._drop, (queue,), _first)

    def pause(self, queue: str) -> Call[bool]:
        """Nothing to be taken."""
        return Call(self._pause, (queue,), _first)

    def resume(self, queue: str) -> Call[bool]:
        """The end of a pause."""
        return Call(self._resume, (queue,), _first)

    def stats(self, queue: str | None) -> Call[list[Stats]]:
        """What is in one queue or in all."""
        return Call(self._stats, (queue,), _stats)

    def put_again(self, taken: Taken) -> Call[int]:
        """A job that was taken and reached nobody, as it was but for the id."""
        return Call(
            self._put,
            (
                taken.queue,
                *taken.payload,
                taken.dedupe_key,
                taken.schedule_at,
                None,
                taken.expected_at,
                None,
                taken.priority,
                taken.headers,
                taken.max_attempts,
                True,
            ),
            _first,
        )

    def bury(self, taken: Taken, reason: str) -> Call[None]:
        """A job that was taken and can't be read, to the dead."""
        return Call(
            self._bury,
            (
                taken.queue,
                taken.id,
                reason,
                *taken.payload,
                taken.priority,
                taken.enqueued_at,
                taken.schedule_at,
                taken.expected_at,
                taken.attempts,
                taken.max_attempts,
                taken.consumer,
                taken.dedupe_key,
                taken.headers,
            ),
            _nothing,
        )
