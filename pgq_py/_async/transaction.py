"""Transactions: what is put and got inside stands or falls together."""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from types import TracebackType
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg.pq import TransactionStatus

from .._compat import async_owner
from ..errors import ConnectionBusy, ConnectionLost, Error, TransactionAborted, translate

if TYPE_CHECKING:
    from .client import AsyncPQ
    from .session import AsyncSession

# The open transactions of this thread or task, innermost last. In a context variable and not on
# the PQ or queue, which threads share.
_open: ContextVar[tuple[AsyncTransaction, ...]] = ContextVar("pgq_py_open_async", default=())


def innermost(pq: AsyncPQ) -> AsyncTransaction | None:
    """The transaction that calls of this PQ join here and now.

    Raises:
        ConnectionBusy: the context was copied into another thread, where the transaction doesn't belong.
        Forked: it was begun in the parent of this process.
    """
    for transaction in reversed(_open.get()):
        if transaction.pq is pq and transaction.session is not None and not transaction.abandoned:
            transaction.session.check_process()
            if transaction.thread != threading.get_ident():
                raise ConnectionBusy("this transaction belongs to another thread: give the thread a PQ of its own")
            return transaction
    return None


class AsyncTransaction:
    """A transaction on one connection; inside another one of the same PQ, a savepoint.

    Entering gives a cursor of psycopg's, for statements of your own in the same transaction.
    """

    def __init__(self, pq: AsyncPQ, opener: object = None, session: AsyncSession | None = None) -> None:
        self.pq = pq
        self.opener = opener
        # The one to use; None if it is the outer transaction's. Given, it is the giver's to close.
        self._given = session
        self._used: AsyncSession | None = session
        # While it is open.
        self.session: AsyncSession | None = None
        self.thread = threading.get_ident()
        self._owner = async_owner()
        self._outer: AsyncTransaction | None = None
        # Psycopg's or the host's transaction, and whether it is one, not a savepoint in the caller's.
        self.begun: Any = None
        self.is_real = False
        self.is_ending = self._is_over = False
        # What is to be done when the outermost is over, committed or not; and when this one is rolled back.
        self._after: list[Callable[[], Awaitable[None]]] = []
        self._undo: list[Callable[[BaseException], None]] = []
        self.abandoned = False
        """The generator that opened it was dropped, and will be closed by the event loop in its own time."""

    def after(self, action: Callable[[], Awaitable[None]]) -> None:
        """Do this when the whole transaction is over, committed or not."""
        outermost = self
        while outermost._outer is not None:
            outermost = outermost._outer
        outermost._after.append(action)

    def on_rollback(self, action: Callable[[BaseException], None]) -> None:
        """Do this if what is done here now is rolled back, by this transaction or one around it."""
        self._undo.append(action)

    @property
    def is_outermost(self) -> bool:
        """Whether this is a transaction, not a savepoint in one."""
        return self._outer is None

    async def __aenter__(self) -> psycopg.AsyncCursor[Any]:
        """Begin.

        Raises:
            ConnectionBusy: another task or thread has a transaction open on the only connection.
        """
        try:
            return await self._begin()
        except BaseException as error:
            conn = None if self._used is None else self._used.raw
            lost = conn is not None and conn.closed
            await self.abandon(error)
            if isinstance(error, psycopg.Error):
                raise translate(error, schema=self.pq.schema, lost=lost) from error
            raise

    async def _begin(self) -> psycopg.AsyncCursor[Any]:
        self._outer = innermost(self.pq)
        if self._outer is not None:
            if self._outer._owner != self._owner:
                raise ConnectionBusy("the transaction belongs to another task: open this one where that one was")
            self._used = self._outer.session
        elif self._given is None:
            self._used = self.pq.new_session()
            await self.pq.acquire(self._used)
        session = self._used
        assert session is not None  # innermost gives open ones only
        await session.begin(self)
        conn = await session.connection()
        self.session = session
        _open.set((*(other for other in _open.get() if other.session is not None), self))
        return conn.cursor()

    async def abandon(self, error: BaseException) -> None:
        """End it in whatever state it is, after a failure or an interruption of its beginning or end.

        May be repeated, and does nothing where it is over.
        """
        session, self.session = self._used, None
        _open.set(tuple(other for other in _open.get() if other is not self))
        if session is None or session.is_inherited():
            return
        try:
            if not self._is_over:
                await session.roll_back(self, error)
        finally:
            self._is_over = True
            if self._outer is None:
                session.source.let_go(session)
            await self._release(session)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        """Commit, or roll back after an exception.

        Raises:
            TransactionAborted: an error inside was swallowed; psycopg would roll back in silence.
            ConnectionLost: the connection went away inside; nothing was committed.
        """
        try:
            return await self._finish(kind, error, trace)
        except BaseException as raised:
            await self.abandon(raised)
            raise

    async def _finish(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        session = self.session
        assert session is not None  # __aexit__ follows __aenter__
        for inner in reversed(_open.get()):
            if inner is self:
                break
            if inner.session is session:  # Control-C came when its exit was called, and had not begun
                await inner.abandon(error or GeneratorExit())
        self.session = None
        # Not by token: an asynchronous generator may be closed in another context.
        _open.set(tuple(other for other in _open.get() if other is not self))
        if session.is_inherited():
            if error is None:
                session.check_process()
            return None
        undone: BaseException | None = error
        try:
            return await self._end(session, kind, error, trace)
        except BaseException as failed:
            undone = failed
            raise
        finally:
            await self.abandon(undone or GeneratorExit())
            if undone is not None:
                for undo in self._undo:
                    undo(undone)
            elif self._outer is not None:
                self._outer._undo += self._undo
            for action in self._after:
                await action()

    async def _end(
        self,
        session: AsyncSession,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool | None:
        try:
            swallowed = await self._swallowed(session) if error is None else None
            self.is_ending = True
            if swallowed is not None:
                await self.begun.__aexit__(type(swallowed), swallowed, None)
                self._is_over = True
                raise swallowed
            suppress: bool | None = await self.begun.__aexit__(kind, error, trace)
            self._is_over = True
            return suppress
        except psycopg.Error as failed:
            self._is_over = True  # no interruption: it has failed to its end
            if failed is error or isinstance(failed, Error):
                raise
            lost = (await session.connection()).closed
            committing = lost and error is None and self._outer is None
            raise translate(failed, schema=self.pq.schema, lost=lost, committing=committing) from failed

    async def _release(self, session: AsyncSession) -> None:
        if self._outer is None and self._given is None:
            await session.close()

    async def _swallowed(self, session: AsyncSession) -> Error | None:
        conn = await session.connection()
        if conn.closed or conn.info.transaction_status == TransactionStatus.UNKNOWN:
            return ConnectionLost("the connection was lost inside the transaction: nothing of it was committed")
        if conn.info.transaction_status == TransactionStatus.INERROR:
            return TransactionAborted(
                "an error inside the transaction was swallowed: it is rolled back. Let the error pass, "
                "or put what may fail into a transaction of its own inside this one"
            )
        return None


def opened_by(opener: object) -> AsyncTransaction:
    """The innermost transaction that this object opened here."""
    for transaction in reversed(_open.get()):
        if transaction.opener is opener and transaction.session is not None:
            return transaction
    raise RuntimeError("left a transaction that was not entered here")
