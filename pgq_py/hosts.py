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


def _is_scoped(obj: Any) -> bool:
    """Whether this is a scoped_session of SQLAlchemy's: a session for each thread, or task, behind one name."""
    return callable(obj) and hasattr(obj, "registry")


class DjangoHost:
    """Django's connection: `PQ(django.db.connection)`."""

    # One name, and a connection for each thread behind it.
    is_per_thread = True

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
    """SQLAlchemy's Connection, Session or scoped_session."""

    def __init__(self, given: Any) -> None:
        self._given = given
        self.is_per_thread = _is_scoped(given)
        self.is_session = self.is_per_thread or callable(getattr(given, "connection", None))

    @property
    def obj(self) -> Any:
        """The connection or session to use here and now."""
        return self._given() if self.is_per_thread else self._given

    def raw(self) -> Any:
        """Psycopg's connection, in the transaction that SQLAlchemy begins with any statement."""
        obj = self.obj
        conn = obj.connection() if self.is_session else obj
        if not conn.in_transaction():
            conn.begin()
        return conn.connection.driver_connection

    def transaction(self) -> AbstractContextManager[Any]:
        """A savepoint in SQLAlchemy's transaction, or a transaction of its own."""
        obj = self.obj
        made: AbstractContextManager[Any] = obj.begin_nested() if obj.in_transaction() else obj.begin()
        return made


class AsyncSQLAlchemyHost:
    """SQLAlchemy's AsyncConnection, AsyncSession or async_scoped_session."""

    def __init__(self, given: Any) -> None:
        self._given = given
        self.is_per_thread = _is_scoped(given)
        self.is_session = not hasattr(given, "get_raw_connection")

    @property
    def obj(self) -> Any:
        """The connection or session to use here and now."""
        return self._given() if self.is_per_thread else self._given

    async def raw(self) -> Any:
        """Psycopg's connection, in the transaction that SQLAlchemy begins with any statement."""
        obj = self.obj
        conn = await obj.connection() if self.is_session else obj
        if not conn.in_transaction():
            await conn.begin()
        return (await conn.get_raw_connection()).driver_connection

    def transaction(self) -> AbstractAsyncContextManager[Any]:
        """A savepoint in SQLAlchemy's transaction, or a transaction of its own."""
        obj = self.obj
        made: AbstractAsyncContextManager[Any] = obj.begin_nested() if obj.in_transaction() else obj.begin()
        return made


Host = DjangoHost | SQLAlchemyHost
AsyncHost = AsyncSQLAlchemyHost


def find_host(obj: Any) -> Host | None:
    """The host for an object that Django or SQLAlchemy made, None for anything else."""
    if is_django(obj):
        return DjangoHost(obj)
    if _is_sqlalchemy(obj) and (hasattr(obj, "in_transaction") or _is_scoped(obj)):
        return SQLAlchemyHost(obj)
    return None


def find_async_host(obj: Any) -> AsyncHost | None:
    """The same for asyncio; Django has no asynchronous connection."""
    if _is_sqlalchemy(obj) and (hasattr(obj, "in_transaction") or _is_scoped(obj)):
        return AsyncSQLAlchemyHost(obj)
    return None
