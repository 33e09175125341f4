"""The calls: for each SQL function its statement, its parameters and what its rows mean.

Nothing here does I/O, and no other module knows SQL. The functions are called under the
name of their schema and with named arguments, so that no search_path matters.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Generic, NamedTuple, TypeVar
from uuid import UUID

from psycopg import sql

from .codecs import JSON, Payload
from .errors import BadName, PayloadError
from .times import Duration, When, at_or_in, length

T = TypeVar("T")
Row = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """One statement, ready to run, and how to read its rows."""

    statement: bytes
    params: Sequence[Any] | None
    read: Callable[[list[Row]], T]
    # Of a put: it can be repeated, should nobody know whether it was done.
    dedupe_key: str | None = None


class JobId(int):
    """The id of a job that was put."""

    is_new: bool
    """False where a job with the same dedupe_key is in the queue already, whose id this is."""

    def __new__(cls, id: int, is_new: bool = True) -> JobId:
        """An int that also says whether the job was new."""
        self = super().__new__(cls, id)
        self.is_new = is_new
        return self


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
    receipt: UUID | None = None
    lease_until: datetime | None = None
    lease_for: timedelta | None = None
    ready_at: datetime | None = None


class Death(NamedTuple):
    """What a row of `queue_dead_list` tells beyond the job."""

    died_at: datetime
    reason: str
    history: str | None


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings that hold for a queue: see `queue_create` in the reference. None is no limit."""

    paused: bool
    max_attempts: int
    lease_for: timedelta
    retry_in: timedelta
    max_depth: int | None
    max_bytes: int | None
    keep_dead_for: timedelta | None


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that hurts the queue, and what to do about it: see `queue_health` in the reference."""

    what: str
    severity: str
    subject: str
    detail: str
    remedy: str


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
    exact: bool
    put: int
    taken: int
    completed: int
    failed: int


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


def _storable(message: str | None) -> str | None:
    """What PostgreSQL can store of it. Whatever an error's text holds, the failure must be recorded."""
    return None if message is None else message.replace("\0", "\\0").encode("utf-8", "replace").decode()


def _first(rows: list[Row]) -> Any:
    return rows[0][0]


def _nothing(rows: list[Row]) -> None:
    return None


def _id(rows: list[Row]) -> JobId:
    return JobId(*rows[0])


def _ids(rows: list[Row]) -> list[JobId]:
    return [JobId(*row) for row in rows]


def _settings(rows: list[Row]) -> Settings:
    return Settings(*rows[0])


def _column(rows: list[Row]) -> list[Any]:
    return [row[0] for row in rows]


def _findings(rows: list[Row]) -> list[Finding]:
    return [Finding(*row) for row in rows]


def _tasks(rows: list[Row]) -> dict[str, int]:
    return dict(rows)


def _stats(rows: list[Row]) -> list[Stats]:
    return [Stats(*row) for row in rows]


_JOB = (
    "id, data, data_text, data_bytes, priority, enqueued_at, schedule_at, expected_at, attempts, "
    "max_attempts, last_error, progress_count, consumer, dedupe_key, headers"
)
# By the server's clock: how long the lease lasts, whatever ours says.
_LEASED = _JOB.replace("consumer", "%s::text") + ", receipt, lease_until, lease_until - clock_timestamp()"
_CHOICE = "ids => %s::bigint[], reason_like => %s, died_after => %s, died_before => %s, count => %s::int"
# The settings that `configure` takes, in their order.
SETTINGS = ("max_attempts", "lease_for", "retry_in", "max_depth", "max_bytes", "keep_dead_for")


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
            "select id, is_new from {schema}.queue_put_many(queue => %s, data => %s::jsonb[], data_text => %s::text[], "
            "data_bytes => %s::bytea[], dedupe_keys => %s::text[], " + options + ")"
        )
        self._get = function("select " + _JOB + " from {schema}.queue_get(%s, %s::int, %s)")
        self._get_any = function("select queue, " + _JOB + " from {schema}.queue_get_any(%s::text[], %s::int, %s)")
        self._lease = function("select " + _LEASED + " from {schema}.queue_lease(%s, %s::int, %s, %s, %s)")
        self._lease_any = function(
            "select queue, " + _LEASED + " from {schema}.queue_lease_any(%s::text[], %s::int, %s, %s, %s)"
        )
        self._complete = function("select {schema}.queue_complete(%s, %s::bigint, %s)")
        self._error = function(
            "select {schema}.queue_error(%s, %s::bigint, %s, message => %s, retry_in => %s, bury => %s)"
        )
        self._release = function("select {schema}.queue_release(%s, %s::bigint, %s)")
        self._progress = function(
            "select {schema}.queue_progress(%s, %s::bigint, %s, progress => %s::bigint, lease => %s)"
        )
        self._dead = function(
            "select " + _JOB + ", died_at, reason, history from {schema}.queue_dead_list(%s, " + _CHOICE + ")"
        )
        self._redrive = function("select {schema}.queue_redrive(%s, " + _CHOICE + ")")
        self._delete_dead = function("select {schema}.queue_dead_delete(%s, " + _CHOICE + ")")
        self._settings = function("select * from {schema}.queue_settings(%s)")
        self._wait = function("select min({schema}.queue_wait(name)) from unnest(%s::text[]) as name")
        self._next = function("select clock_timestamp() + {schema}.queue_wait(%s)")
        self._listen = function("select {schema}.queue_listen(name) from unnest(%s::text[]) as name")
        self._unlisten = function("select {schema}.queue_unlisten(name) from unnest(%s::text[]) as name")
        self._update = function(
            "select {schema}.queue_update(%s, %s::bigint, data => %s::jsonb, data_text => %s, data_bytes => %s, "
            "receipt => %s)"
        )
        self._cancel = function("select {schema}.queue_cancel(%s, %s::bigint)")
        self._list = function(
            "select " + _JOB + ", ready_at from {schema}.queue_list(%s, scheduled => %s, count => %s::int)"
        )
        self._count = function("select {schema}.queue_count(%s, scheduled => %s)")
        self._clear = function("select {schema}.queue_clear(%s)")
        self._create = function(
            "select {schema}.queue_create(%s, max_attempts => %s::int, lease_for => %s, retry_in => %s, "
            "max_depth => %s::bigint, max_bytes => %s::int, keep_dead_for => %s, reset => %s::text[])"
        )
        self._drop = function("select {schema}.queue_drop(%s)")
        self._pause = function("select {schema}.queue_pause(%s)")
        self._resume = function("select {schema}.queue_resume(%s)")
        self._stats = function("select * from {schema}.queue_stats(%s)")
        self._health = function("select * from {schema}.queue_health(older_than => %s)")
        self._maintain = function("select task, done from {schema}.queue_maintain()")
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
    ) -> Call[JobId]:
        """One job; reads its id."""
        if dedupe_key is not None:
            # Only a batch tells whether the job was new.
            arrays = [None if value is None else [value] for value in payload]
            keyed = self._put_all(
                queue, arrays, schedule_at, expected_at, priority, [dedupe_key], headers, max_attempts, notify
            )
            return Call(keyed.statement, keyed.params, _id, dedupe_key)
        options = (*at_or_in("schedule_at", schedule_at), *at_or_in("expected_at", expected_at))
        return Call(
            self._put,
            (queue, *payload, None, *options, priority, _headers(headers), max_attempts, notify),
            _id,
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
    ) -> Call[list[JobId]]:
        """A batch of jobs; reads their ids in order."""
        return self._put_all(
            queue,
            _one_kind(payloads),
            schedule_at,
            expected_at,
            priority,
            dedupe_keys,
            headers,
            max_attempts,
            notify,
        )

    def _put_all(
        self,
        queue: str,
        arrays: Sequence[list[Any] | None],
        schedule_at: When | None,
        expected_at: When | None,
        priority: int,
        dedupe_keys: Sequence[str | None] | None,
        headers: Any,
        max_attempts: int | None,
        notify: bool,
    ) -> Call[list[JobId]]:
        options = (*at_or_in("schedule_at", schedule_at), *at_or_in("expected_at", expected_at))
        keys = None if dedupe_keys is None else list(dedupe_keys)
        return Call(
            self._put_many,
            (queue, *arrays, keys, *options, priority, _headers(headers), max_attempts, notify),
            _ids,
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

    def lease(
        self, queues: Sequence[str], count: int, lease_for: Duration | None, consumer: str, promote: bool
    ) -> Call[list[Taken]]:
        """Up to COUNT jobs of one queue or of several in turn, leased."""
        lease = length("lease_for", lease_for)

        def leased(queue: str, row: Row) -> Taken:
            taken = _taken(queue, row)
            return taken if lease is None else taken._replace(lease_for=lease)

        if len(queues) == 1:
            name = queues[0]
            return Call(
                self._lease,
                (consumer, name, count, lease, consumer, promote),
                lambda rows: [leased(name, row) for row in rows],
            )
        return Call(
            self._lease_any,
            (consumer, list(queues), count, lease, consumer, promote),
            lambda rows: [leased(row[0], row[1:]) for row in rows],
        )

    def complete(self, queue: str, id: int, receipt: UUID) -> Call[bool]:
        """A leased job is done."""
        return Call(self._complete, (queue, id, receipt), _first)

    def error(
        self,
        queue: str,
        id: int,
        receipt: UUID | None,
        message: str | None,
        retry_in: Duration | None = None,
        bury: bool = False,
    ) -> Call[bool]:
        """An attempt has failed; without a receipt one that was made in a transaction and rolled back."""
        return Call(self._error, (queue, id, receipt, _storable(message), length("retry_in", retry_in), bury), _first)

    def release(self, queue: str, id: int, receipt: UUID) -> Call[bool]:
        """A leased job returned."""
        return Call(self._release, (queue, id, receipt), _first)

    def progress(self, queue: str, id: int, receipt: UUID, count: int | None, lease_for: Duration | None) -> Call[bool]:
        """A lease extended."""
        return Call(self._progress, (queue, id, receipt, count, length("lease_for", lease_for)), _first)

    def dead(self, queue: str, *choice: Any) -> Call[list[tuple[Taken, Death]]]:
        """The dead jobs that are chosen."""
        size = len(_JOB.split(","))
        return Call(
            self._dead,
            (queue, *choice),
            lambda rows: [(_taken(queue, row[:size]), Death(*row[size:])) for row in rows],
        )

    def redrive(self, queue: str, *choice: Any) -> Call[int]:
        """Dead jobs put back."""
        return Call(self._redrive, (queue, *choice), _first)

    def delete_dead(self, queue: str, *choice: Any) -> Call[int]:
        """Dead jobs removed."""
        return Call(self._delete_dead, (queue, *choice), _first)

    def settings(self, queue: str) -> Call[Settings]:
        """The settings that hold."""
        return Call(self._settings, (queue,), _settings)

    def wait(self, queues: Sequence[str]) -> Call[timedelta | None]:
        """How long until the next job comes due."""
        return Call(self._wait, (list(queues),), _first)

    def next_at(self, queue: str) -> Call[datetime | None]:
        """When the next job comes due."""
        return Call(self._next, (queue,), _first)

    def listen(self, queues: Sequence[str]) -> Call[None]:
        """Be notified of jobs of these queues."""
        return Call(self._listen, (list(queues),), _nothing)

    def unlisten(self, queues: Sequence[str]) -> Call[None]:
        """Be notified no more."""
        return Call(self._unlisten, (list(queues),), _nothing)

    def update(self, queue: str, id: int, payload: Payload, receipt: UUID | None = None) -> Call[bool]:
        """Other data for a job; with a receipt only while that lease is good."""
        return Call(self._update, (queue, id, *payload, receipt), _first)

    def cancel(self, queue: str, id: int) -> Call[bool]:
        """A job removed."""
        return Call(self._cancel, (queue, id), _first)

    def listing(self, queue: str, scheduled: bool, count: int | None) -> Call[list[Taken]]:
        """The jobs, left where they are."""
        return Call(
            self._list,
            (queue, scheduled, count),
            lambda rows: [_taken(queue, row[:-1])._replace(ready_at=row[-1]) for row in rows],
        )

    def count(self, queue: str, scheduled: bool) -> Call[int]:
        """The number of jobs."""
        return Call(self._count, (queue, scheduled), _first)

    def clear(self, queue: str) -> Call[int]:
        """All jobs removed."""
        return Call(self._clear, (queue,), _first)

    def create(self, queue: str, **settings: Any) -> Call[bool]:
        """A queue known by name, with those of the SETTINGS that are given; None is the default again."""
        values = [settings.get(name) for name in SETTINGS]
        for index in (1, 2, 5):
            values[index] = length(SETTINGS[index], values[index])
        reset = [name for name in SETTINGS if name in settings and settings[name] is None]
        return Call(self._create, (queue, *values, reset), _first)

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

    def health(self, older_than: Duration) -> Call[list[Finding]]:
        """What hurts."""
        return Call(self._health, (length("older_than", older_than),), _findings)

    def maintain(self) -> Call[dict[str, int]]:
        """What must be done now and then."""
        return Call(self._maintain, (), _tasks)

    def put_again(self, taken: Taken) -> Call[JobId]:
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
            _id,
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
