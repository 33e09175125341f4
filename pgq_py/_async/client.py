"""PQ: a database's queues, by name."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar, overload

import psycopg
from psycopg.conninfo import make_conninfo

from .._compat import async_call, async_sleep
from .._version import SCHEMA_VERSION
from ..calls import Call, Calls, Finding, Metrics, Right, Stats
from ..codecs import Serializer
from ..errors import NotAllowed, VersionMismatch
from ..hosts import find_async_host
from ..links import Outage
from ..running import Hook
from ..signatures import Keys, Secret
from ..times import Duration
from .queue import AsyncQueue, AsyncQueueSet
from .session import SLICE, AsyncDialSource, AsyncPoolSource, AsyncSession, AsyncSource
from .task import AsyncTasks
from .transaction import AsyncTransaction, innermost
from .use import AsyncUse

if TYPE_CHECKING:
    from psycopg_pool import AsyncConnectionPool

    from ..otel import Tracing

T = TypeVar("T")


class AsyncPQ:
    """The queues of one schema of one database, by name: `pq["apples"]`.

    Args:
        conn: a psycopg connection (its transactions stay yours: a call on an idle connection is a
            transaction of its own, a call in an open transaction joins it); or a connection or
            session that Django or SQLAlchemy own; or the address of a database, as a URL or in
            libpq's "key=value" form, whose connections are made when needed.
        pool: a pool of psycopg_pool's instead, for threads or tasks.
        schema: where the queue is installed.
        secret: a key of 16 bytes or more, or several, to sign data with that is not JSON: nothing else is
            unpickled then, or given to a serializer. The first one signs, all verify. Text stands for its UTF-8.

    Safe to share between threads or tasks with a pool or an address. With a single connection they
    take turns, and while one has a transaction open the others get `ConnectionBusy`.
    """

    def __init__(
        self,
        conn: psycopg.AsyncConnection[Any] | str | Any | None = None,
        *,
        pool: AsyncConnectionPool[Any] | None = None,
        schema: str = "public",
        secret: Secret | None = None,
    ) -> None:
        if (conn is None) == (pool is None):
            raise TypeError("PQ takes a connection, an address or a pool: one of them")
        self.schema = schema
        self.calls = Calls(schema)
        self.tracing: Tracing | None = None
        self.hooks: list[Hook] = []
        """For all workers of this PQ: each is called with a job, and gives a context manager to run it in."""
        self.keys = Keys(secret)
        self.tasks = AsyncTasks()
        """The tasks made by `queue.task` of this PQ's queues, by name."""
        self._queues: dict[str, AsyncQueue] = {}
        self._checked = False
        self._source = self._make_source(conn, pool)

    def _make_source(self, conn: Any, pool: AsyncConnectionPool[Any] | None) -> AsyncSource:
        if pool is not None:
            return AsyncPoolSource(self.schema, pool)
        if isinstance(conn, str):
            return AsyncDialSource(self.schema, conn)
        if isinstance(conn, psycopg.AsyncConnection):
            return AsyncSource(self.schema, conn=conn)
        host = find_async_host(conn)
        if host is None:
            given, wanted = type(conn), psycopg.AsyncConnection.__name__
            raise TypeError(
                f"PQ can't use a {given.__module__}.{given.__qualname__}: "
                f"give it a psycopg.{wanted}, an address, or pool="
            )
        return AsyncSource(self.schema, host=host)

    @classmethod
    def embedded(
        cls, path: str | Path | None = None, *, schema: str = "public", secret: Secret | None = None
    ) -> AsyncPQ:
        """The queues of a PostgreSQL server of this package's own, started if need be. For development.

        Args:
            path: the folder of its data; by default one of the user's. It is used again next time.
            schema: where the queue is installed; `create` installs it.
            secret: to sign with, as for a `PQ`.
        """
        from ..embedded import start

        return cls(start(path), schema=schema, secret=secret)

    @overload
    def __getitem__(self, name: str) -> AsyncQueue: ...

    @overload
    def __getitem__(self, name: tuple[str, ...]) -> AsyncQueueSet: ...

    def __getitem__(self, name: str | tuple[str, ...]) -> AsyncQueue | AsyncQueueSet:
        """The queue of this name, or a set of queues: `pq["a", "b"]`.

        A name that ends in "/pickle" stores and reads pickles: for producers that you trust, or with a `secret`.

        Raises:
            BadName: not 1 to 255 bytes of text; a ValueError.
        """
        if isinstance(name, tuple):
            return AsyncQueueSet(self, name)
        if name not in self._queues:
            self._queues[name] = AsyncQueue(self, name)
        return self._queues[name]

    def queue(self, name: str, *, serializer: Serializer | None = None, raw: bool = False) -> AsyncQueue:
        """The queue of this name, its data stored and read by a serializer.

        Args:
            name: of the queue.
            serializer: anything with `dumps` (giving text or bytes) and `loads`; by default JSON.
            raw: data are `Payload`s, put and given as they are stored: for tools that pass jobs on and look at none.
        """
        return AsyncQueue(self, name, serializer=serializer, raw=raw)

    def _through(self, given: Any) -> AsyncPQ:
        """The same queues through another connection.

        Args:
            given: a connection or cursor of psycopg's, a connection or session of SQLAlchemy's, Django's connection;
                or a PQ, which is returned.
        """
        if isinstance(given, AsyncPQ):
            return given
        if isinstance(given, str):
            raise TypeError("give a connection, not an address: nobody would close what is made from it")
        made = copy.copy(self)
        made._queues = {}
        made._source = self._make_source(given.connection if isinstance(given, psycopg.AsyncCursor) else given, None)
        return made

    def transaction(self) -> AsyncTransaction:
        """A transaction over all queues of this PQ; entering it gives a psycopg cursor."""
        return AsyncTransaction(self)

    async def stats(self) -> list[Stats]:
        """What is in each queue that has jobs, dead jobs or settings."""
        return await self.run(self.calls.stats(None))

    async def metrics(self) -> list[Metrics]:
        """`stats` as a monitoring system takes it: gauges and counters of each queue, numbers only."""
        return await self.run(self.calls.metrics())

    async def grant(self, role: str, privilege: str) -> bool:
        """Give a role a right on all queues: to "put", "get", "observe" or "manage"; True if it is new.

        For one queue: `pq["apples"].grant(...)`.
        """
        return await self.run(self.calls.grant(None, role, privilege))

    async def revoke(self, role: str, privilege: str | None = None) -> bool:
        """Take a right from a role, or all of them: on all queues, and on each; True if it had any."""
        return await self.run(self.calls.revoke(None, role, privilege))

    async def rights(self) -> list[Right]:
        """The rights that were given: everybody's for the owner of the queue's functions, else one's own."""
        return await self.run(self.calls.rights(None))

    async def health(self, older_than: Duration = "1m") -> list[Finding]:
        """What hurts the queues here, each with the remedy in words; nothing if all is well.

        Args:
            older_than: how old a transaction or an overdue job must be to be named: a timedelta,
                seconds, or text such as "5m".
        """
        return await self.run(self.calls.health(older_than))

    async def maintain(self) -> dict[str, int]:
        """Do what must be done now and then, once a minute for example; gives how much of what was done.

        Nothing breaks if nobody does: see `queue_maintain` in the reference.
        """
        return await self.run(self.calls.maintain())

    async def version(self) -> str:
        """The version of the installed schema.

        Raises:
            NotInstalled: there is none.
        """
        return await self.run(self.calls.version())

    async def create(self) -> None:
        """Install the queue in the schema, or bring it up to date. Nothing to do is fine.

        Works on a connection of its own with the same parameters, in one transaction.
        """
        from ..migrate import upgrade

        self.check_open()
        await async_call(upgrade, await self._parameters(), self.schema)
        self._checked = False

    async def source_aside(self) -> AsyncSource:
        """Where to get a connection that shares nothing with what goes on here.

        The pool or address; for a connection that was given, its parameters. End with `close_aside`.
        """
        if isinstance(self._source, AsyncPoolSource | AsyncDialSource):
            return self._source
        parameters = await self._parameters()
        assert isinstance(parameters, dict)  # text is an AsyncDialSource's
        return AsyncDialSource(self.schema, make_conninfo(**parameters))

    async def close_aside(self, source: AsyncSource | None) -> None:
        """Close the connections of `source_aside` that are not for all."""
        if source is not None and source is not self._source:
            await source.close()

    async def _parameters(self) -> str | dict[str, Any]:
        if isinstance(self._source, AsyncDialSource):
            return self._source.conninfo
        session = self.new_session()
        try:
            await self._source.acquire(session)
            info = (await session.connection()).info
            return {**info.get_parameters(), "password": info.password or None}
        finally:
            await session.close()

    async def run(self, call: Call[T]) -> T:
        """Run one call, in the open transaction of this thread or task if there is one."""
        if call.traced is not None:
            with call.traced() as plain:
                return await self.run(plain)
        joined = self._joined()
        if joined is not None:
            return await joined.run(call)
        session = self.new_session()
        try:
            await self.acquire(session, call)
            result = await session.run(call)
            await session.close()
            return result
        except BaseException:
            await session.close()
            raise

    async def is_own(self) -> bool:
        """Whether a call here and now would be a transaction of its own."""
        use = AsyncUse(self)
        try:
            session = await use.open()
            return await session.is_own()
        finally:
            await use.close()

    def new_session(self) -> AsyncSession:
        """A session that has no connection yet."""
        return AsyncSession(self._source)

    def _joined(self) -> AsyncSession | None:
        transaction = innermost(self)
        return None if transaction is None else transaction.session

    async def acquire(self, session: AsyncSession, wanted: Call[Any] | None = None, within: float = math.inf) -> None:
        """A connection for the session, its schema checked the first time; `session.close` gives it back.

        Args:
            session: that has none yet.
            wanted: the call that it is for, if it is for one.
            within: seconds to wait for one at most, while the server is out of reach.
        """
        self.check_open()
        await self._source.acquire(session, within)
        if not self._checked:
            await self._check_version(session, wanted)

    @property
    def outage(self) -> Outage:
        """Whether the server is out of reach for those who wait."""
        return self._source.outage

    def can_reconnect(self) -> bool:
        """Whether who waits here and now may have another connection when his is lost."""
        return self._source.can_reconnect and self._joined() is None

    async def reconnect(self, error: BaseException, left: float, over: int) -> bool:
        """Pause before a call that waits for jobs tries again; False if it can't: then the error stands.

        Args:
            error: by which it lost its connection, or got none.
            left: seconds until its time is over.
            over: as for `Outage.begin`.
        """
        if not self.can_reconnect():
            return False
        self.check_open()
        pause = self.outage.begin(error, over)
        if left <= 0:
            return False
        until, over = monotonic() + min(left, pause), self.outage.over
        while (pause := until - monotonic()) > 0 and over == self.outage.over:
            await async_sleep(min(pause, SLICE))
            self.check_open()
        return True

    async def _check_version(self, session: AsyncSession, wanted: Call[Any] | None) -> None:
        """Once for each PQ: the schema and the package must fit.

        Raises:
            NotInstalled, VersionMismatch: with the command to run.
        """
        try:
            installed = await session.run(self.calls.version(wanted))
        except NotAllowed:
            # The role has no right at all. What it wants will be refused by name, unless this was the last
            # that its transaction did.
            if not await session.is_own():
                raise
            return
        if installed < SCHEMA_VERSION:
            raise VersionMismatch(
                f"the schema {self.schema!r} is at version {installed}, and this pgq_py needs {SCHEMA_VERSION}: "
                "run `pgq-py migrate`, or pq.create()"
            )
        if installed > SCHEMA_VERSION:
            raise VersionMismatch(
                f"the schema {self.schema!r} is at version {installed}, newer than {SCHEMA_VERSION}, which this "
                "pgq_py knows: run `pip install --upgrade pgq-py`"
            )
        self._checked = True

    def check_open(self) -> None:
        """Raises `Closed` after `close`."""
        self._source.check_open()

    async def close(self) -> None:
        """Close what this PQ opened. Calls that wait end with `Closed` soon; your connection or pool stays open.

        A statement that is on its way is not cut short.
        """
        await self._source.close()

    async def __aenter__(self) -> AsyncPQ:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
