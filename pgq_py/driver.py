"""What is ours on a psycopg connection: cursors that no setting of the connection's owner can break."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import psycopg
from psycopg import pq
from psycopg._connection_base import BaseConnection
from psycopg.abc import AdaptContext, Buffer, PQGen, Query
from psycopg.adapt import AdaptersMap, Loader
from psycopg.rows import TupleRow, tuple_row


class _JSONText(Loader):
    """jsonb as the text it comes as: the codec of the queue reads it."""

    format = pq.Format.BINARY

    def __init__(self, oid: int, context: AdaptContext | None = None) -> None:
        super().__init__(oid, context)
        self._encoding = self.connection.info.encoding if self.connection else "utf-8"

    def load(self, data: Buffer) -> str:
        # The first byte is the version of the format.
        return bytes(data)[1:].decode(self._encoding)


class _Time(Loader):
    """timestamptz, but a year that Python doesn't have gives its first or last moment.

    Any SQL caller may put such a time, and the job would be taken and then lost to an
    error in the reading of it.
    """

    format = pq.Format.BINARY

    def __init__(self, oid: int, context: AdaptContext | None = None) -> None:
        super().__init__(oid, context)
        found = psycopg.adapters.get_loader(oid, pq.Format.BINARY)
        assert found is not None  # psycopg registers one for timestamptz
        self._loader = found(oid, context)

    def load(self, data: Buffer) -> datetime:
        try:
            loaded: datetime = self._loader.load(data)
            return loaded
        except psycopg.DataError:
            # Microseconds since the year 2000, with a sign.
            edge = datetime.min if bytes(data)[0] & 0x80 else datetime.max
            return edge.replace(tzinfo=UTC)


ADAPTERS = AdaptersMap(psycopg.adapters)
ADAPTERS.register_loader("jsonb", _JSONText)
ADAPTERS.register_loader("timestamptz", _Time)

if not hasattr(psycopg.Cursor, "_start_query"):
    # Without the hook below, what a cursor of ours does would wait for a COMMIT that never comes.
    raise ImportError(f"pgq_py does not know psycopg {psycopg.__version__}: install an older one, or a newer pgq-py")


class Cursor(psycopg.Cursor[TupleRow]):
    """A cursor with our adapters and row factory: Django's text loader for jsonb, for one, would break us.

    Args:
        connection: psycopg's.
        begins: whether a statement on an idle connection begins a transaction, as the connection's
            owner has set it. Otherwise the statement is a transaction of its own, in one round trip,
            and the connection's autocommit setting is never touched: other tasks may be using it.
    """

    def __init__(self, connection: psycopg.Connection[Any], begins: bool) -> None:
        super().__init__(connection, row_factory=tuple_row)
        self._begins = begins

    @property
    def adapters(self) -> AdaptersMap:
        """Ours, not the connection's."""
        return ADAPTERS

    def _start_query(self, query: Query | None = None) -> PQGen[None]:
        yield from _without_begin(self._conn, super()._start_query(query), self._begins)


class AsyncCursor(psycopg.AsyncCursor[TupleRow]):
    """The same for an asynchronous connection."""

    def __init__(self, connection: psycopg.AsyncConnection[Any], begins: bool) -> None:
        super().__init__(connection, row_factory=tuple_row)
        self._begins = begins

    @property
    def adapters(self) -> AdaptersMap:
        """Ours, not the connection's."""
        return ADAPTERS

    def _start_query(self, query: Query | None = None) -> PQGen[None]:
        yield from _without_begin(self._conn, super()._start_query(query), self._begins)


def _without_begin(conn: BaseConnection[Any], start: PQGen[None], begins: bool) -> PQGen[None]:
    """Psycopg's preparation of a query, which sends BEGIN unless the connection is in autocommit."""
    if begins or conn._autocommit:
        yield from start
        return
    conn._autocommit = True
    try:
        yield from start  # does not wait for anything then: nobody else sees the setting
    finally:
        conn._autocommit = False
