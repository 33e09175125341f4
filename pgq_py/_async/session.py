"""Where connections come from, and one connection in use."""

from __future__ import annotations

import os
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import TYPE_CHECKING, Any, TypeVar

import psycopg
from psycopg.pq import PipelineStatus, TransactionStatus

from .._compat import AsyncLock, async_sleep, jitter
from ..calls import Call
from ..driver import AsyncCursor
from ..errors import Closed, Forked, TransactionConflict, translate
from ..hosts import AsyncHost

if TYPE_CHECKING:
    from psycopg_pool import AsyncConnectionPool

    from .transaction import AsyncTransaction

T = TypeVar("T")
Connection = psycopg.AsyncConnection[Any]


class AsyncSession:
    """One connection, for one operation or one transaction."""

    def __init__(self, source: AsyncSource, conn: Connection | None, lock: AsyncLock | None = None) -> None:
        self.source = source
        self._conn = conn
        # Of a connection that threads or tasks share: between looking at its state and acting on it.
        self._lock = lock or nullcontext()

    async def connection(self) -> Connection:
        """Psycopg's connection. A host may open it or begin its transaction now."""
        if self._conn is not None:
            return self._conn
        assert self.source.host is not None  # only a hosted source gives sessions without a connection
        conn: Connection = await self.source.host.raw()
        return conn

    async def is_own(self) -> bool:
        """Whether a statement now would be a transaction of its own, committed when it returns."""
        conn = await self.connection()
        if conn.info.transaction_status != TransactionStatus.IDLE:
            return False
        return conn.autocommit or self._conn is not None

    async def run(self, call: Call[T]) -> T:
        """Run a call: on an idle connection in one round trip and durable, else in the open transaction.

        A transaction of our own that lost against another one is repeated a few times.
        """
        for attempt in range(10):
            try:
                return await self._run_once(call)
            except TransactionConflict:
                if not await self.is_own():
                    raise
                await async_sleep(jitter(0.01 * 2**attempt))
        return await self._run_once(call)

    async def _run_once(self, call: Call[T]) -> T:
        async with self._lock:
            conn = await self.connection()
            # Toggling autocommit costs nothing on the wire; BEGIN and COMMIT would cost two round
            # trips (5,138 calls/s became 40,646).
            toggle = (
                self._conn is not None
                and not conn.autocommit
                and conn.info.transaction_status == TransactionStatus.IDLE
                and conn.pgconn.pipeline_status == PipelineStatus.OFF
            )
            if not toggle:
                return await self._execute(conn, call)
            await conn.set_autocommit(True)
            try:
                return await self._execute(conn, call)
            finally:
                if conn.info.transaction_status == TransactionStatus.IDLE:
                    await conn.set_autocommit(False)
                else:
                    # Interrupted half-way: left in autocommit, it would betray its owner's transactions.
                    await conn.close()

    async def _execute(self, conn: Connection, call: Call[T]) -> T:
        try:
            cursor = AsyncCursor(conn)
            await cursor.execute(call.statement, call.params)
            return call.read(await cursor.fetchall() if cursor.description else [])
        except psycopg.Error as error:
            raise translate(error, schema=self.source.schema, lost=conn.closed) from error

    def begin(self) -> AbstractAsyncContextManager[Any]:
        """A transaction, or a savepoint in the open one; by the host where there is one."""
        if self.source.host is not None:
            return self.source.host.transaction()
        assert self._conn is not None  # sessions without a connection have a host
        return self._conn.transaction()


class AsyncSource:
    """Gives out connections: here always the same one, the caller's, or the host's."""

    def __init__(self, schema: str, conn: Connection | None = None, host: AsyncHost | None = None) -> None:
        self.schema = schema
        self.host = host
        self._lock = AsyncLock()
        # The transaction that has the only connection for itself.
        self.holder: AsyncTransaction | None = None
        self._conn = conn
        self._pid = os.getpid()

    async def acquire(self) -> AsyncSession:
        """A session; give it back with `release`."""
        if os.getpid() != self._pid:
            raise Forked("this connection belongs to the parent process: open one, and a PQ, in the child")
        if self._conn is not None and self._conn.closed:
            raise Closed("the connection given to PQ is closed")
        return AsyncSession(self, self._conn, self._lock)

    async def acquire_another(self) -> AsyncSession | None:
        """One more while a transaction has the first; None where there is no other."""
        return None

    def hold(self, transaction: AsyncTransaction | None) -> None:
        """Note the transaction that now has the only connection for itself."""
        self.holder = transaction

    async def release(self, session: AsyncSession) -> None:
        """Take a session back, in whatever state its connection is."""

    async def close(self) -> None:
        """Close what is ours; the caller's connection and pool are not."""


class AsyncPoolSource(AsyncSource):
    """Connections from the caller's pool."""

    def __init__(self, schema: str, pool: AsyncConnectionPool[Any]) -> None:
        super().__init__(schema)
        self._pool = pool

    async def acquire(self) -> AsyncSession:
        """A connection of the pool."""
        if os.getpid() != self._pid:
            raise Forked("this pool belongs to the parent process: open one, and a PQ, in the child")
        return AsyncSession(self, await self._pool.getconn())

    def hold(self, transaction: AsyncTransaction | None) -> None:
        """Nothing to note: there are other connections."""

    async def acquire_another(self) -> AsyncSession | None:
        """Another connection of the pool."""
        return await self.acquire()

    async def release(self, session: AsyncSession) -> None:
        """Back to the pool, which discards a broken connection."""
        await self._pool.putconn(await session.connection())


class AsyncDialSource(AsyncSource):
    """Connections made when needed, kept for reuse: as many as are in use at a time.

    Not a pool of psycopg's: a wrong address shall be an error at once, not after a timeout, and
    there shall be no threads that a fork leaves behind.
    """

    def __init__(self, schema: str, conninfo: str) -> None:
        super().__init__(schema)
        self.conninfo = conninfo
        self._idle: list[Connection] = []
        self._inherited: list[Connection] = []
        self._closed = False

    async def acquire(self) -> AsyncSession:
        """An idle connection, or a new one."""
        if os.getpid() != self._pid:
            # The parent's: not used, not closed, not even collected here.
            self._inherited, self._idle = self._idle, []
            self._pid = os.getpid()
        while self._idle:
            conn = self._idle.pop()
            if _is_alive(conn):
                return AsyncSession(self, conn)
            await conn.close()
        try:
            conn = await psycopg.AsyncConnection.connect(
                self.conninfo, autocommit=True, fallback_application_name="pgq_py"
            )
        except psycopg.Error as error:
            raise translate(error, schema=self.schema, lost=True) from error
        return AsyncSession(self, conn)

    def hold(self, transaction: AsyncTransaction | None) -> None:
        """Nothing to note: there are other connections."""

    async def acquire_another(self) -> AsyncSession | None:
        """One more connection."""
        return await self.acquire()

    async def release(self, session: AsyncSession) -> None:
        """Kept if it is idle and whole."""
        conn = await session.connection()
        if self._closed or conn.closed or conn.info.transaction_status != TransactionStatus.IDLE:
            await conn.close()
        else:
            self._idle.append(conn)

    async def close(self) -> None:
        """Close the idle connections; those in use follow when they come back."""
        self._closed = True
        while self._idle:
            await self._idle.pop().close()


def _is_alive(conn: Connection) -> bool:
    """Whether the server has not hung up on an idle connection. Asks the socket, not the server."""
    try:
        conn.pgconn.consume_input()
    except psycopg.Error:
        return False
    return not conn.closed
