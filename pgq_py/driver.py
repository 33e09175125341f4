"""What is ours on a psycopg connection: cursors that no setting of the connection's owner can break."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import psycopg
from psycopg import pq
from psycopg.abc import AdaptContext, Buffer
from psycopg.adapt import AdaptersMap, Loader
from psycopg.rows import TupleRow, tuple_row


class _JSONText(Loader):
    """jsonb as the text it comes as: the codec of the queue reads it."""

    def __init__(self, oid: int, context: AdaptContext | None = None) -> None:
        super().__init__(oid, context)
        self._encoding = self.connection.info.encoding if self.connection else "utf-8"

    def load(self, data: Buffer) -> str:
        return bytes(data).decode(self._encoding)


class _Time(Loader):
    """timestamptz, but a year that Python doesn't have gives its first or last moment.

    Any SQL caller may put such a time, and the job would be taken and then lost to an
    error in the reading of it.
    """

    def __init__(self, oid: int, context: AdaptContext | None = None) -> None:
        super().__init__(oid, context)
        found = psycopg.adapters.get_loader(oid, pq.Format.TEXT)
        assert found is not None  # psycopg registers one for timestamptz
        self._loader = found(oid, context)

    def load(self, data: Buffer) -> datetime:
        try:
            loaded: datetime = self._loader.load(data)
            return loaded
        except psycopg.DataError:
            edge = datetime.min if bytes(data).endswith(b"BC") else datetime.max
            return edge.replace(tzinfo=UTC)


ADAPTERS = AdaptersMap(psycopg.adapters)
ADAPTERS.register_loader("jsonb", _JSONText)
ADAPTERS.register_loader("timestamptz", _Time)


class Cursor(psycopg.Cursor[TupleRow]):
    """A cursor with our adapters and row factory: Django's text loader for jsonb, for one, would break us."""

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        super().__init__(connection, row_factory=tuple_row)

    @property
    def adapters(self) -> AdaptersMap:
        """Ours, not the connection's."""
        return ADAPTERS


class AsyncCursor(psycopg.AsyncCursor[TupleRow]):
    """The same for an asynchronous connection."""

    def __init__(self, connection: psycopg.AsyncConnection[Any]) -> None:
        super().__init__(connection, row_factory=tuple_row)

    @property
    def adapters(self) -> AdaptersMap:
        """Ours, not the connection's."""
        return ADAPTERS
