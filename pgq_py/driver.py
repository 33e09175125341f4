"""Statements on a psycopg connection, without its cursors.

A cursor of psycopg's finds out at each call what the values' types are, how to write and read
them, which loaders the connection's owner wants: more work than the rest of the call. A statement of
ours knows its types, and nothing that the owner sets (row factory, adapters: Django's text loader for
jsonb, for one) can break it. The rest is as psycopg does it: its connection's lock, waiting and
cancelling, notifications, pipelines, and its cache of prepared statements, so that the owner's
`prepare_threshold` holds.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import psycopg
from psycopg import abc, errors
from psycopg._connection_base import BaseConnection
from psycopg._preparing import Prepare, PrepareManager
from psycopg.adapt import AdaptersMap, Transformer
from psycopg.generators import execute
from psycopg.pq import ExecStatus
from psycopg.pq.abc import PGresult
from psycopg.types.string import ByteaBinaryLoader

from .values import BINARY, KINDS, READERS, Dialect

_USED = (
    (BaseConnection, "_start_query"),
    (PrepareManager, "get"),
    (PrepareManager, "maybe_add_to_cache"),
    (PrepareManager, "validate"),
    (PrepareManager, "maintain_gen"),
    (PrepareManager, "clear"),
    (psycopg.Pipeline, "_communicate_gen"),
    (psycopg.Pipeline, "_fetch_gen"),
)
if not all(hasattr(owner, name) for owner, name in _USED):
    raise ImportError(f"pgq_py does not know psycopg {psycopg.__version__}: install an older one, or a newer pgq-py")

RawRow = tuple[bytes | None, ...]
Row = tuple[Any, ...]


class Statement(bytes):
    """The text of a statement that knows the types of its parameters."""

    types: tuple[int, ...]
    # A list, which psycopg 3.2 insists on.
    formats: list[int]
    dumps: tuple[Callable[[Any, str], bytes], ...]

    def __new__(cls, text: str, kinds: Sequence[str]) -> Statement:
        """A statement with $1, $2 and so on in the text, of these kinds."""
        self = super().__new__(cls, text.encode())
        found = [KINDS[kind] for kind in kinds]
        self.types = tuple(kind.oid for kind in found)
        self.formats = [kind.format for kind in found]
        self.dumps = tuple(kind.dump for kind in found)
        return self

    @property
    def query(self) -> bytes:
        """Itself: to psycopg's cache of prepared statements this is one of psycopg's queries."""
        return self

    def dump(self, params: Sequence[Any], encoding: str) -> list[bytes | None]:
        """The values as PostgreSQL takes them."""
        return [
            None if value is None else dump(value, encoding) for value, dump in zip(params, self.dumps, strict=True)
        ]


class Execution:
    """One statement on its way through a connection."""

    __slots__ = ("_conn", "_is_sent", "_params", "_statement", "results")

    def __init__(self, conn: BaseConnection[Any], statement: bytes, params: list[bytes | None] | None) -> None:
        self._conn = conn
        self._statement = statement
        self._params = params
        # What is sent before it (BEGIN, PREPARE) does not count.
        self._is_sent = False
        self.results: list[PGresult] | None = None
        """What came back. Kept by the instruction that receives it: an interruption at any later one finds it here."""

    @property
    def is_done(self) -> bool:
        """Whether the statement was done: for certain. After `steps` that were not interrupted it was."""
        results = self.results or []
        return bool(results) and all(result.status in _GOOD for result in results)

    @property
    def is_unknown(self) -> bool:
        """Whether it was sent, and nothing came back."""
        return self._is_sent and self.results is None

    def steps(self, begins: bool) -> abc.PQGen[None]:
        """What psycopg's `connection.wait` is to run, under the connection's lock.

        Args:
            begins: whether a statement on an idle connection begins a transaction, as the connection's
                owner has set it. Otherwise the statement is a transaction of its own, in one round trip.
        """
        conn = self._conn
        if begins:
            yield from conn._start_query()
        if conn._pipeline is not None:
            yield from self._pipe(conn._pipeline)
        elif isinstance(self._statement, Statement):
            yield from self._execute(self._statement)
        else:
            # Without parameters, and maybe several statements.
            self._is_sent = True
            conn.pgconn.send_query(self._statement)
            self.results = yield from execute(conn.pgconn)
            self._check(self.results)

    def rest(self) -> abc.PQGen[None]:
        """What is left to do when `steps` was interrupted while the server was at work."""
        results = yield from execute(self._conn.pgconn)
        if self._is_sent:
            self.results = results

    def _execute(self, statement: Statement) -> abc.PQGen[None]:
        pgconn, prepared = self._conn.pgconn, self._conn._prepared
        query: Any = statement
        known, name = prepared.get(query)
        if known is Prepare.SHOULD:
            pgconn.send_prepare(name, statement, statement.types)
            self._check((yield from execute(pgconn)))
        self._is_sent = True
        if known is Prepare.NO:
            pgconn.send_query_params(statement, self._params, statement.types, statement.formats, BINARY)
        else:
            pgconn.send_query_prepared(name, self._params, statement.formats, BINARY)
        key = prepared.maybe_add_to_cache(query, known, name)
        self.results = yield from execute(pgconn)
        if key is not None:
            prepared.validate(key, known, name, self.results)
        self._check(self.results)
        yield from prepared.maintain_gen(self._conn)

    def _pipe(self, pipeline: Any) -> abc.PQGen[None]:
        statement, types, formats = self._statement, None, None
        if isinstance(statement, Statement):
            types, formats = statement.types, statement.formats
        pipeline.command_queue.append(
            partial(
                self._conn.pgconn.send_query_params,
                statement,
                self._params,
                types,
                formats,
                BINARY,
            )
        )
        self._is_sent = True
        as_cursor: Any = self
        pipeline.result_queue.append((as_cursor, None))
        yield from pipeline._communicate_gen()
        yield from pipeline._fetch_gen(flush=True)

    def _check(self, results: list[PGresult]) -> None:
        if not results:
            raise errors.InternalError("got no result from the query")
        for result in results:
            if result.status not in _GOOD:
                raise _error_of(result, self._conn)

    # What a pipeline calls of a cursor.

    def _check_results(self, results: list[PGresult]) -> None:
        self.results = results
        self._check(results)

    def _set_results(self, results: list[PGresult]) -> None:
        """Done by `_check_results`."""


_GOOD = {int(ExecStatus.TUPLES_OK), int(ExecStatus.COMMAND_OK)}


def _error_of(result: PGresult, conn: BaseConnection[Any]) -> psycopg.Error:
    if result.status == ExecStatus.PIPELINE_ABORTED:
        return errors.PipelineAborted("pipeline aborted")
    return errors.error_from_result(result, encoding=conn.info.encoding)


def forget_prepared(conn: BaseConnection[Any]) -> None:
    """Prepare anew from now on: the server has forgotten what psycopg takes for prepared."""
    conn._prepared.clear()


# Psycopg's fastest way to the values of many rows, each as it comes. One for each number of columns
# and thread: it holds the result while it reads.
_ADAPTERS = AdaptersMap(psycopg.adapters)
_ADAPTERS.register_loader("bytea", ByteaBinaryLoader)
_BYTEA = 17
_local = threading.local()


def _transformer(columns: int) -> abc.Transformer:
    known: dict[Any, Any] = _local.__dict__
    found: abc.Transformer | None = known.get(columns)
    if found is None:
        found = Transformer(_ADAPTERS)
        found.set_loader_types([_BYTEA] * columns, psycopg.pq.Format.BINARY)
        known[columns] = found  # last: one without loaders, left by an interruption, crashes the process
    return found


class Answer:
    """The rows that a statement gave."""

    __slots__ = ("_result", "dialect")

    def __init__(self, results: list[PGresult] | None, dialect: Dialect) -> None:
        assert results  # the statement has succeeded
        self._result = results[-1]
        self.dialect = dialect

    def first(self) -> Any:
        """The first row's first value, as it came: bytes or None."""
        return self._result.get_value(0, 0)

    def raw(self) -> list[RawRow]:
        """The rows with their values as they came."""
        transformer = _transformer(self._result.nfields)
        transformer.set_pgresult(self._result, set_loaders=False)
        try:
            return transformer.load_rows(0, self._result.ntuples, tuple)
        finally:
            transformer.set_pgresult(None, set_loaders=False)

    def rows(self) -> list[Row]:
        """The rows."""
        read = [READERS[self._result.ftype(column)] for column in range(self._result.nfields)]
        dialect = self.dialect
        return [
            tuple([None if value is None else of(value, dialect) for of, value in zip(read, row, strict=True)])
            for row in self.raw()
        ]
