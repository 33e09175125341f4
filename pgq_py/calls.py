"""The calls: for each SQL function its statement, its parameters and what its rows mean.

Nothing here does I/O, and no other module knows SQL. The functions are called under the
name of their schema and with named arguments, so that no search_path matters.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import count as counter
from typing import Any, Generic, TypeVar

from psycopg import sql

from .codecs import JSON, Payload
from .driver import Answer, RawRow, Statement
from .errors import BadName, DecodeError, PayloadError
from .times import Duration, When, at_or_in, length
from .values import (
    Dialect,
    Reader,
    read_bigints,
    read_booleans,
    read_integer,
    read_interval,
    read_json,
    read_text,
    read_time,
    read_uuid,
)

T = TypeVar("T")


@dataclass(slots=True)
class Call(Generic[T]):
    """One statement, ready to run, and how to read what it gives."""

    statement: bytes
    params: Sequence[Any] | None
    read: Callable[[Answer], T]
    # Of a put: it can be repeated, should nobody know whether it was done.
    dedupe_key: str | None = None
    # Whether it matters that nobody knows whether it was done: not of one that changes nothing.
    matters: bool = True
    # Of a call that only prepares another: that one is what rights are asked for.
    wanted: Call[Any] | None = None
    # Of a PQ that `otel.instrument` traces: the span to run it in, which gives the call to run.
    traced: Callable[[], AbstractContextManager[Call[T]]] | None = None

    def advice(self, schema: str, role: str) -> str:
        """The grant that a role must ask for to make this call, where PostgreSQL itself refused it.

        Args:
            schema: where the queue is installed.
            role: who is connected.
        """
        call = self.wanted or self
        found = _FUNCTION.search(call.statement)
        function = "" if found is None else found[1].decode()
        if function == "queue_version":
            return f"{role!r} has no right on any queue here: ask the owner of the queue for a queue_grant"
        privilege = _TO_ASK_FOR.get(function)
        if privilege is None:
            return "only the owner of the queue can"
        params = call.params or (None,)
        if function == "queue_update" and params[-1] is None:
            privilege = "manage"
        queue = params[0][0] if isinstance(params[0], list | tuple) else params[0]
        if not isinstance(queue, str):
            # queue_health, queue_maintain, queue_metrics, and queue_stats of all.
            grant = sql.SQL("select {}({}, {})").format(
                sql.Identifier(schema, "queue_grant_all"), sql.Literal(role), sql.Literal(privilege)
            )
            return f"it takes the right to {privilege} on all queues: ask the owner for {grant.as_string(None)}"
        grant = sql.SQL("select {}({}, {}, {})").format(
            sql.Identifier(schema, "queue_grant"), sql.Literal(queue), sql.Literal(role), sql.Literal(privilege)
        )
        return f"it takes the right to {privilege} on queue {queue!r}: ask the owner for {grant.as_string(None)}"


_FUNCTION = re.compile(rb"\b(queue_\w+)\(")
# As _queue_functions in SQL: for each function the first of the privileges that suffice. Asked only of errors.
_TO_ASK_FOR = {
    f"queue_{name}": privilege
    for privilege, names in {
        "put": "put put_many",
        "get": "get get_any lease lease_any complete complete_many error error_many release release_many progress "
        "progress_many bury channel listen unlisten update wait",
        "observe": "list count stats dead_list settings export metrics health",
        "manage": "create drop pause resume clear cancel redrive dead_delete import maintain",
    }.items()
    for name in names.split()
}


class JobId(int):
    """The id of a job that was put."""

    is_new: bool = True
    """False where a job with the same dedupe_key is in the queue already, whose id this is."""


class Taken:
    """A job's row as it came. A column is decoded when it is looked at: most never are.

    Args:
        row: begins with the id, data, data_text and data_bytes.
        columns: the index of each column that the row has.
        dialect: to read it by.
        queue: the name of the job's queue.
        given: values of columns that the row need not tell.
    """

    __slots__ = ("_columns", "_dialect", "_given", "_row", "id", "queue")

    def __init__(
        self, row: RawRow, columns: dict[str, int], dialect: Dialect, queue: str, given: dict[str, Any] | None = None
    ) -> None:
        self.id = read_integer(row[0] or b"")
        self.queue = queue
        self._row = row
        self._columns = columns
        self._dialect = dialect
        self._given = given

    def raw(self, name: str) -> bytes | None:
        """The column's value as it came, None where the row does not have it."""
        index = self._columns.get(name)
        return None if index is None else self._row[index]

    def value(self, name: str) -> Any:
        """The column's value."""
        if self._given is not None and name in self._given:
            return self._given[name]
        raw = self.raw(name)
        return None if raw is None else COLUMNS[name](raw, self._dialect)

    @property
    def payload(self) -> Payload:
        """The job's data.

        Raises:
            DecodeError: it is not text in the encoding of the session; of a database without one.
        """
        try:
            return _payload(self._row[1:4], self._dialect)
        except UnicodeDecodeError as error:
            raise DecodeError(f"the data is not {self._dialect.encoding}") from error

    @property
    def headers(self) -> Any:
        """The job's headers.

        Raises:
            DecodeError: as of the data.
        """
        try:
            text = self.value("headers")
        except UnicodeDecodeError as error:
            raise DecodeError(f"the headers are not {self._dialect.encoding}") from error
        return None if text is None else JSON.decode(Payload(json=text))

    def stored_headers(self) -> bytes | None:
        """The job's headers as they came."""
        json = self.raw("headers")
        return None if json is None else json[1:]

    def stored(self) -> tuple[bytes | None, bytes | None, bytes | None]:
        """The job's data as it came: data, data_text and data_bytes."""
        json = self._row[1]
        return None if json is None else json[1:], self._row[2], self._row[3]


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
class Exported:
    """A job with all that is kept of it: its fields as the text of a JSON object, and its data."""

    id: int
    job: str
    payload: Payload
    is_dead: bool


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that hurts the queue, and what to do about it: see `queue_health` in the reference."""

    what: str
    severity: str
    subject: str
    detail: str
    remedy: str


@dataclass(frozen=True, slots=True)
class Right:
    """What a role may do: see `queue_grant` in the reference. The queue is None for all queues."""

    queue: str | None
    role: str
    privilege: str
    granted_at: datetime


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
    died: int


@dataclass(frozen=True, slots=True)
class Metrics:
    """Gauges and counters of a queue, numbers only: see `queue_metrics` in the reference."""

    queue: str
    ready: int
    scheduled: int
    retrying: int
    leased: int
    dead: int
    paused: int
    oldest_ready_seconds: float
    put: int
    taken: int
    completed: int
    failed: int
    died: int


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
        ValueError: below 1, or above 100,000.
    """
    if not 1 <= count <= 100_000:
        raise ValueError(f"{count} jobs can't be taken: ask for at least one, and 100,000 at most")
    return count


def _storable(message: str | None) -> str | None:
    """What PostgreSQL can store of it. Whatever an error's text holds, the failure must be recorded."""
    return None if message is None else message.replace("\0", "\\0").encode("utf-8", "replace").decode()


def _first(answer: Answer) -> Any:
    return answer.rows()[0][0]


def _nothing(answer: Answer) -> None:
    return None


BACKEND_PID: Call[int] = Call(Statement("select pg_backend_pid()", ()), (), _first, matters=False)
"""Which process of the server it is."""


def _id(answer: Answer) -> JobId:
    return JobId(read_integer(answer.first()))


def _ids(answer: Answer) -> list[JobId]:
    return _numbers(answer.first())


def _keyed_ids(answer: Answer) -> list[JobId]:
    numbers, news = answer.raw()[0]
    ids = _numbers(numbers)
    for id, is_new in zip(ids, read_booleans(news or b""), strict=True):
        if not is_new:
            id.is_new = False
    return ids


def _numbers(array: bytes | None) -> list[JobId]:
    return [] if array is None else list(map(JobId, read_bigints(array)))


def _keyed_id(answer: Answer) -> JobId:
    return _keyed_ids(answer)[0]


def _dones(answer: Answer) -> list[bool]:
    return [done == b"\x01" for (done,) in answer.raw()]


def _extended(answer: Answer) -> list[bool | None]:
    return [None if done is None else done == b"\x01" for (done,) in answer.raw()]


def _settings(answer: Answer) -> Settings:
    return Settings(*answer.rows()[0])


def _findings(answer: Answer) -> list[Finding]:
    return [Finding(*row) for row in answer.rows()]


def _rights(answer: Answer) -> list[Right]:
    return [Right(*row) for row in answer.rows()]


def _exported(answer: Answer, is_dead: bool) -> list[Exported]:
    dialect = answer.dialect
    return [
        Exported(read_integer(id or b""), read_json(job or b"", dialect), _payload(data, dialect), is_dead)
        for id, job, *data in answer.raw()
    ]


def _payload(row: Sequence[bytes | None], dialect: Dialect) -> Payload:
    """The data of a row: its data, data_text and data_bytes."""
    json, text, data = row
    if json is not None:
        return Payload(read_json(json, dialect))
    return Payload(None, None if text is None else read_text(text, dialect), data)


def _tasks(answer: Answer) -> dict[str, int]:
    return dict(answer.rows())


def _stats(answer: Answer) -> list[Stats]:
    return [Stats(*row) for row in answer.rows()]


def _metrics(answer: Answer) -> list[Metrics]:
    return [Metrics(*row) for row in answer.rows()]


# The columns of a job beyond its id and data, and how to read them.
COLUMNS: dict[str, Reader] = {
    "priority": read_integer,
    "enqueued_at": read_time,
    "schedule_at": read_time,
    "expected_at": read_time,
    "attempts": read_integer,
    "max_attempts": read_integer,
    "last_error": read_text,
    "progress_count": read_integer,
    "consumer": read_text,
    "dedupe_key": read_text,
    "headers": read_json,
    "receipt": read_uuid,
    "lease_until": read_time,
    "lease_for": read_interval,
    "ready_at": read_time,
    "died_at": read_time,
    "reason": read_text,
    "history": read_json,
}
_JOB = (
    "id, data, data_text, data_bytes, priority, enqueued_at, schedule_at, expected_at, attempts, "
    "max_attempts, last_error, progress_count, consumer, dedupe_key, headers"
)
# By the server's clock: how long the lease lasts, whatever ours says.
_LEASED = _JOB.replace("consumer, ", "") + ", receipt, lease_until, lease_until - clock_timestamp() as lease_for"
_LISTED = _JOB + ", ready_at"
_DEAD = _JOB + ", died_at, reason, history"
_CHOICE = (
    "ids => %bigint[], reason_like => %text, died_after => %timestamptz, died_before => %timestamptz, count => %int"
)
# The settings that `configure` takes, in their order.
SETTINGS = ("max_attempts", "lease_for", "retry_in", "max_depth", "max_bytes", "keep_dead_for")


def _headers(headers: Any) -> str | None:
    return None if headers is None else JSON.encode(headers).json


_PLACE = re.compile(r"%(\w+(?:\[\])?)")


def _statement(text: str, schema: str) -> Statement:
    """A statement, %TYPE in its text for each parameter."""
    numbers = counter(1)
    numbered = _PLACE.sub(lambda _: f"${next(numbers)}", text)
    return Statement(numbered.replace("{schema}", schema), _PLACE.findall(text))


def _places(columns: str) -> dict[str, int]:
    """The index of each column in a list of a statement's."""
    names = [column.split()[-1] for column in columns.split(", ")]
    return {name: index for index, name in enumerate(names) if name in COLUMNS}


_JOB_PLACES, _LEASED_PLACES = _places(_JOB), _places(_LEASED)
_LISTED_PLACES, _DEAD_PLACES = _places(_LISTED), _places(_DEAD)


def _taken(
    answer: Answer, columns: dict[str, int], queue: str | None, given: dict[str, Any] | None = None
) -> list[Taken]:
    """The jobs of a queue; of several, where each row ends with its queue."""
    dialect = answer.dialect
    return [
        Taken(row, columns, dialect, read_text(row[-1] or b"", dialect) if queue is None else queue, given)
        for row in answer.raw()
    ]


def _variant(
    statements: tuple[Statement, Statement], unlisten: Sequence[str]
) -> tuple[Statement, tuple[Sequence[str], ...]]:
    """The statement that also stops to listen, if it is to, and its first parameter."""
    return (statements[1], (unlisten,)) if unlisten else (statements[0], ())


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
        name = sql.Identifier(schema).as_string(None)

        def function(text: str) -> Statement:
            return _statement(text, name)

        options = (
            "schedule_at => %timestamptz, schedule_in => %interval, expected_at => %timestamptz, "
            "expected_in => %interval, priority => %int, headers => %jsonb, max_attempts => %int, notify => %bool"
        )
        self._version = function("select {schema}.queue_version()")
        self._isolation = function("select current_setting('transaction_isolation')")
        self._put = function(
            "select {schema}.queue_put(queue => %text, data => %jsonb, data_text => %text, data_bytes => %bytea, "
            "dedupe_key => %text, " + options + ")"
        )
        # A put without options is the most frequent call: fewer values to send and to bind.
        self._put_plain = function("select {schema}.queue_put(queue => %text, data => %jsonb)")
        self._put_many = function(
            "select array_agg(id), array_agg(is_new) from {schema}.queue_put_many(queue => %text, data => %jsonb[], "
            "data_text => %text[], data_bytes => %bytea[], dedupe_keys => %text[], " + options + ")"
        )
        # Each twice. The second is for a sleeper that was woken: where there is a job, and only there, the select
        # list is evaluated, after the function. The job is with whoever waits for it a round trip earlier.
        unlisten = "(select count({schema}.queue_unlisten(name)) from unnest(%text[]) as name)"

        def take(columns: str, source: str, queue: str = "") -> tuple[Statement, Statement]:
            return (
                function(f"select {columns}{queue} from {{schema}}.{source}"),
                function(f"select {columns}, {unlisten}{queue} from {{schema}}.{source}"),
            )

        self._get = take(_JOB, "queue_get(%text, %int, %bool)")
        self._get_any = take(_JOB, "queue_get_any(%text[], %int, %bool)", ", queue")
        self._lease = take(_LEASED, "queue_lease(%text, %int, %interval, %text, %bool)")
        self._lease_any = take(_LEASED, "queue_lease_any(%text[], %int, %interval, %text, %bool)", ", queue")
        self._complete = function("select {schema}.queue_complete(%text, %bigint, %uuid)")
        self._error = function(
            "select {schema}.queue_error(%text, %bigint, %uuid, message => %text, retry_in => %interval, bury => %bool)"
        )
        self._release = function("select {schema}.queue_release(%text, %bigint, %uuid)")
        self._progress = function(
            "select {schema}.queue_progress(%text, %bigint, %uuid, progress => %bigint, lease => %interval)"
        )
        self._complete_many = function("select done from {schema}.queue_complete_many(%text, %bigint[], %uuid[])")
        self._error_many = function(
            "select done from {schema}.queue_error_many(%text, %bigint[], %uuid[], messages => %text[], "
            "retry_in => %interval, bury => %bool)"
        )
        self._release_many = function("select done from {schema}.queue_release_many(%text, %bigint[], %uuid[])")
        self._progress_many = function(
            "select done from {schema}.queue_progress_many(%text, %bigint[], %uuid[], lease => %interval)"
        )
        self._dead = function("select " + _DEAD + " from {schema}.queue_dead_list(%text, " + _CHOICE + ")")
        self._redrive = function("select {schema}.queue_redrive(%text, " + _CHOICE + ")")
        self._delete_dead = function("select {schema}.queue_dead_delete(%text, " + _CHOICE + ")")
        self._export = function(
            "select id, job, data, data_text, data_bytes from {schema}.queue_export(%text, after => %bigint, "
            "count => %int, dead => %bool, take => %bool)"
        )
        self._import = function(
            "select array_agg(id), array_agg(is_new) from {schema}.queue_import(%text, jobs => %jsonb[], "
            "data => %jsonb[], data_text => %text[], data_bytes => %bytea[], append => %bool)"
        )
        self._settings = function("select * from {schema}.queue_settings(%text)")
        self._wait = function("select min({schema}.queue_wait(name)) from unnest(%text[]) as name")
        self._next = function("select clock_timestamp() + {schema}.queue_wait(%text)")
        self._listen = function("select {schema}.queue_listen(name) from unnest(%text[]) as name")
        self._unlisten = function("select {schema}.queue_unlisten(name) from unnest(%text[]) as name")
        self._update = function(
            "select {schema}.queue_update(%text, %bigint, data => %jsonb, data_text => %text, "
            "data_bytes => %bytea, receipt => %uuid)"
        )
        self._cancel = function("select {schema}.queue_cancel(%text, %bigint)")
        self._list = function(
            "select " + _LISTED + " from {schema}.queue_list(%text, scheduled => %bool, count => %int)"
        )
        # The whole is kept by the server, which gives it in pages.
        self._list_declared = function(
            "declare pgq_py_listed cursor for select "
            + _LISTED
            + " from {schema}.queue_list(%text, scheduled => %bool, count => %int)"
        )
        self._count = function("select {schema}.queue_count(%text, scheduled => %bool)")
        self._clear = function("select {schema}.queue_clear(%text)")
        self._create = function(
            "select {schema}.queue_create(%text, max_attempts => %int, lease_for => %interval, retry_in => %interval, "
            "max_depth => %bigint, max_bytes => %int, keep_dead_for => %interval, reset => %text[])"
        )
        self._drop = function("select {schema}.queue_drop(%text)")
        self._pause = function("select {schema}.queue_pause(%text)")
        self._resume = function("select {schema}.queue_resume(%text)")
        self._stats = function("select * from {schema}.queue_stats(%text)")
        self._metrics = function("select * from {schema}.queue_metrics()")
        self._grant = function("select {schema}.queue_grant(%text, %text, %text)")
        self._grant_all = function("select {schema}.queue_grant_all(%text, %text)")
        self._revoke = function("select {schema}.queue_revoke(%text, %text, %text)")
        self._revoke_all = function("select {schema}.queue_revoke_all(%text, %text)")
        self._rights = function("select queue, role, privilege, granted_at from {schema}.queue_rights()")
        self._rights_on = function(
            "select queue, role, privilege, granted_at from {schema}.queue_rights() "
            "where queue = %text or queue is null"
        )
        self._health = function("select * from {schema}.queue_health(older_than => %interval)")
        self._maintain = function("select task, done from {schema}.queue_maintain()")
        self._bury = function(
            "select {schema}.queue_bury(queue => %text, id => %bigint, reason => %text, data => %jsonb, "
            "data_text => %text, data_bytes => %bytea, priority => %int, enqueued_at => %timestamptz, "
            "schedule_at => %timestamptz, expected_at => %timestamptz, attempts => %int, max_attempts => %int, "
            "consumer => %text, dedupe_key => %text, headers => %jsonb)"
        )

    def version(self, wanted: Call[Any] | None = None) -> Call[str]:
        """The version of the installed schema, asked before the call that is wanted."""
        return Call(self._version, (), _first, wanted=wanted)

    def isolation(self) -> Call[str]:
        """The isolation level of the transaction."""
        return Call(self._isolation, (), _first, matters=False)

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
            return Call(keyed.statement, keyed.params, _keyed_id, dedupe_key)
        if (
            schedule_at is expected_at is headers is max_attempts is None
            and notify
            and not priority
            and payload.json is not None
        ):
            return Call(self._put_plain, (queue, payload.json), _id)
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
            _ids if keys is None else _keyed_ids,
        )

    def get(self, queues: Sequence[str], count: int, promote: bool, unlisten: Sequence[str] = ()) -> Call[list[Taken]]:
        """Up to COUNT jobs of one queue or of several in turn; if there are any, be notified of UNLISTEN no more."""
        name = queues[0] if len(queues) == 1 else None
        statement, first = _variant(self._get_any if name is None else self._get, unlisten)
        return Call(
            statement,
            (*first, queues if name is None else name, count, promote),
            lambda answer: _taken(answer, _JOB_PLACES, name),
        )

    def lease(
        self,
        queues: Sequence[str],
        count: int,
        lease_for: Duration | None,
        consumer: str,
        promote: bool,
        unlisten: Sequence[str] = (),
    ) -> Call[list[Taken]]:
        """The same, leased."""
        lease = length("lease_for", lease_for)
        given = {"consumer": consumer} if lease is None else {"consumer": consumer, "lease_for": lease}
        name = queues[0] if len(queues) == 1 else None
        statement, first = _variant(self._lease_any if name is None else self._lease, unlisten)
        return Call(
            statement,
            (*first, queues if name is None else name, count, lease, consumer, promote),
            lambda answer: _taken(answer, _LEASED_PLACES, name, given),
        )

    def complete(self, queue: str, id: int, receipt: bytes) -> Call[bool]:
        """A leased job is done."""
        return Call(self._complete, (queue, id, receipt), _first)

    def error(
        self,
        queue: str,
        id: int,
        receipt: bytes | None,
        message: str | None,
        retry_in: Duration | None = None,
        bury: bool = False,
    ) -> Call[bool]:
        """An attempt has failed; without a receipt one that was made in a transaction and rolled back."""
        return Call(self._error, (queue, id, receipt, _storable(message), length("retry_in", retry_in), bury), _first)

    def release(self, queue: str, id: int, receipt: bytes) -> Call[bool]:
        """A leased job returned."""
        return Call(self._release, (queue, id, receipt), _first)

    def progress(
        self, queue: str, id: int, receipt: bytes, count: int | None, lease_for: Duration | None
    ) -> Call[bool]:
        """A lease extended."""
        return Call(self._progress, (queue, id, receipt, count, length("lease_for", lease_for)), _first)

    def complete_many(self, queue: str, ids: Sequence[int], receipts: Sequence[bytes]) -> Call[list[bool]]:
        """Leased jobs are done; reads for each whether its lease was still good."""
        return Call(self._complete_many, (queue, ids, receipts), _dones)

    def error_many(
        self,
        queue: str,
        ids: Sequence[int],
        receipts: Sequence[bytes],
        messages: Sequence[str],
        retry_in: Duration | None = None,
        bury: bool = False,
    ) -> Call[list[bool]]:
        """Attempts have failed, each with its message; the rest is the same for all of them."""
        stored = [_storable(message) for message in messages]
        return Call(self._error_many, (queue, ids, receipts, stored, length("retry_in", retry_in), bury), _dones)

    def release_many(self, queue: str, ids: Sequence[int], receipts: Sequence[bytes]) -> Call[list[bool]]:
        """Leased jobs returned."""
        return Call(self._release_many, (queue, ids, receipts), _dones)

    def progress_many(
        self, queue: str, ids: Sequence[int], receipts: Sequence[bytes], lease_for: Duration | None
    ) -> Call[list[bool | None]]:
        """Leases extended; None of a job that somebody else's transaction has locked."""
        return Call(self._progress_many, (queue, ids, receipts, length("lease_for", lease_for)), _extended)

    def dead(self, queue: str, *choice: Any) -> Call[list[Taken]]:
        """The dead jobs that are chosen."""
        return Call(self._dead, (queue, *choice), lambda answer: _taken(answer, _DEAD_PLACES, queue))

    def redrive(self, queue: str, *choice: Any) -> Call[int]:
        """Dead jobs put back."""
        return Call(self._redrive, (queue, *choice), _first)

    def delete_dead(self, queue: str, *choice: Any) -> Call[int]:
        """Dead jobs removed."""
        return Call(self._delete_dead, (queue, *choice), _first)

    def export(self, queue: str, after: int | None, count: int, dead: bool, take: bool) -> Call[list[Exported]]:
        """A page of jobs with all that is kept of them, and perhaps removed."""
        return Call(self._export, (queue, after, count, dead, take), lambda answer: _exported(answer, dead))

    def import_(self, queue: str, jobs: Sequence[Exported], append: bool) -> Call[list[JobId]]:
        """Jobs of an export, stored; reads their ids in order."""
        payloads = [[exported.payload[kind] for exported in jobs] for kind in range(3)]
        return Call(self._import, (queue, [exported.job for exported in jobs], *payloads, append), _keyed_ids)

    def settings(self, queue: str) -> Call[Settings]:
        """The settings that hold."""
        return Call(self._settings, (queue,), _settings)

    def wait(self, queues: Sequence[str]) -> Call[timedelta | None]:
        """How long until the next job comes due."""
        return Call(self._wait, (queues,), _first, matters=False)

    def next_at(self, queue: str) -> Call[datetime | None]:
        """When the next job comes due."""
        return Call(self._next, (queue,), _first)

    def listen(self, queues: Sequence[str]) -> Call[None]:
        """Be notified of jobs of these queues."""
        return Call(self._listen, (list(queues),), _nothing, matters=False)

    def unlisten(self, queues: Sequence[str]) -> Call[None]:
        """Be notified no more."""
        return Call(self._unlisten, (list(queues),), _nothing, matters=False)

    def update(self, queue: str, id: int, payload: Payload, receipt: bytes | None = None) -> Call[bool]:
        """Other data for a job; with a receipt only while that lease is good."""
        return Call(self._update, (queue, id, *payload, receipt), _first)

    def cancel(self, queue: str, id: int) -> Call[bool]:
        """A job removed."""
        return Call(self._cancel, (queue, id), _first)

    def listing(self, queue: str, scheduled: bool, count: int | None) -> Call[list[Taken]]:
        """The jobs, left where they are."""
        return Call(self._list, (queue, scheduled, count), lambda answer: _taken(answer, _LISTED_PLACES, queue))

    def list_declared(self, queue: str, scheduled: bool, count: int | None) -> Call[None]:
        """The same, to be had by `list_fetched`: once in a transaction."""
        return Call(self._list_declared, (queue, scheduled, count), _nothing)

    def list_fetched(self, queue: str, count: int) -> Call[list[Taken]]:
        """The next of them."""
        statement = Statement(f"fetch {int(count)} from pgq_py_listed", ())
        return Call(statement, (), lambda answer: _taken(answer, _LISTED_PLACES, queue))

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

    def metrics(self) -> Call[list[Metrics]]:
        """Gauges and counters of all queues."""
        return Call(self._metrics, (), _metrics)

    def grant(self, queue: str | None, role: str, privilege: str) -> Call[bool]:
        """A right given to a role, on one queue or on all."""
        if queue is None:
            return Call(self._grant_all, (role, privilege), _first)
        return Call(self._grant, (queue, role, privilege), _first)

    def revoke(self, queue: str | None, role: str, privilege: str | None) -> Call[bool]:
        """Rights taken from a role: on one queue, or all that it has."""
        if queue is None:
            return Call(self._revoke_all, (role, privilege), _first)
        return Call(self._revoke, (queue, role, privilege), _first)

    def rights(self, queue: str | None) -> Call[list[Right]]:
        """The rights that were given, all or those that hold for one queue."""
        if queue is None:
            return Call(self._rights, (), _rights)
        return Call(self._rights_on, (queue,), _rights)

    def health(self, older_than: Duration) -> Call[list[Finding]]:
        """What hurts."""
        return Call(self._health, (length("older_than", older_than),), _findings)

    def maintain(self) -> Call[dict[str, int]]:
        """What must be done now and then."""
        return Call(self._maintain, (), _tasks)

    def put_again(self, taken: Taken) -> Call[JobId]:
        """A job that was taken and reached nobody, as it was but for the id and the attempts.

        It stores nothing where another job has its dedupe_key by now: then the id is not new.
        """
        key, stored = taken.raw("dedupe_key"), taken.stored()
        options = (
            taken.value("schedule_at"),
            None,
            taken.value("expected_at"),
            None,
            taken.value("priority"),
            taken.stored_headers(),
            taken.value("max_attempts"),
            True,
        )
        if key is None:
            return Call(self._put, (taken.queue, *stored, None, *options), _id)
        arrays = [None if value is None else [value] for value in stored]
        return Call(self._put_many, (taken.queue, *arrays, [key], *options), _keyed_id)

    def bury(self, taken: Taken, reason: str) -> Call[None]:
        """A job that was taken and can't be read, to the dead."""
        return Call(
            self._bury,
            (
                taken.queue,
                taken.id,
                reason,
                *taken.stored(),
                taken.value("priority"),
                taken.value("enqueued_at"),
                taken.value("schedule_at"),
                taken.value("expected_at"),
                taken.value("attempts"),
                taken.value("max_attempts"),
                taken.raw("consumer"),
                taken.raw("dedupe_key"),
                taken.stored_headers(),
            ),
            _nothing,
        )
