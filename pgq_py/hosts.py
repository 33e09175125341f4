"""Connections that Django or SQLAlchemy own.

Such a connection is never begun, committed or rolled back by us: in Django's `atomic()` the
psycopg connection is idle until the first statement, and a transaction of psycopg's own would
commit for real. Transactions are asked of the owner instead.
"""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager, AbstractContextManager
from typing import Any


def is_django(obj: Any) -> bool:
    """Whether this is Django's connection wrapper (`django.db.connection`)."""
    return hasattr(obj, "ensure_connection") and hasattr(obj, "alias")


def _is_sqlalchemy(obj: Any) -> bool:
    return type(obj).__module__.partition(".")[0] == "sqlalchemy" or any(
        base.__module__.startswith("sqlalchemy.") for base in type(obj).__mro__
    )


class DjangoHost:
    """Django's connection: `PQ(django.db.connection)`."""

    def __init__(self, wrapper: Any) -> None:
        self.wrapper = wrapper

    def raw(self) -> Any:
        """Psycopg's connection, opened if need be."""
        self.wrapper.ensure_connection()
        return self.wrapper.connection

    def transaction(self) -> AbstractContextManager[Any]:
        """Django's own transaction or savepoint."""
        from django.db import transaction

        atomic: AbstractContextManager[Any] = transaction.atomic(using=self.wrapper.alias)
        return atomic


class SQLAlchemyHost:
    """SQLAlchemy's Connection or Session."""

    def __init__(self, obj: Any) -> None:
        self.obj = obj
        self.is_session = callable(getattr(obj, "connection", None))

    def raw(self) -> Any:
        """Psycopg's connection, in the transaction that SQLAlchemy begins with any statement."""
        conn = self.obj.connection() if self.is_session else self.obj
        if not conn.in_transaction():
            conn.begin()
        return conn.connection.driver_connection

    def transaction(self) -> AbstractContextManager[Any]:
        """A savepoint in SQLAlchemy's transaction, or a transaction of its own."""
        made: AbstractContextManager[Any] = self.obj.begin_nested() if self.obj.in_transaction() else self.obj.begin()
        return made


class AsyncSQLAlchemyHost:
    """SQLAlchemy's AsyncConnection or AsyncSession."""

    def __init__(self, obj: Any) -> None:
        self.obj = obj
        self.is_session = not hasattr(obj, "get_raw_connection")

    async def raw(self) -> Any:
        """Psycopg's connection, in the transaction that SQLAlchemy begins with any statement."""
        conn = await self.obj.connection() if self.is_session else self.obj
        if not conn.in_transaction():
            await conn.begin()
        return (await conn.get_raw_connection()).driver_connection

    def transaction(self) -> AbstractAsyncContextManager[Any]:
        """A savepoint in SQLAlchemy's transaction, or a transaction of its own."""
        made: AbstractAsyncContextManager[Any] = (
            self.obj.begin_nested() if self.obj.in_transaction() else self.obj.begin()
        )
        return made


Host = DjangoHost | SQLAlchemyHost
AsyncHost = AsyncSQLAlchemyHost


def find_host(obj: Any) -> Host | None:
    """The host for an object that Django or SQLAlchemy made, None for anything else."""
    if is_django(obj):
        return DjangoHost(obj)
    if _is_sqlalchemy(obj) and hasattr(obj, "in_transaction"):
        return SQLAlchemyHost(obj)
    return None


def find_async_host(obj: Any) -> AsyncHost | None:
    """The same for asyncio; Django has no asynchronous connection."""
    if _is_sqlalchemy(obj) and hasattr(obj, "in_transaction"):
        return AsyncSQLAlchemyHost(obj)
    return None
