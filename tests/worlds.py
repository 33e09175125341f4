"""The two worlds, so that one test speaks for both: `await` works on the synchronous package, too."""

from __future__ import annotations

import contextlib
import inspect
import select
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import psycopg_pool

import pgq_py
from pgq_py._async import listener as async_listener
from pgq_py._sync import listener as sync_listener

# Long enough to fail a test that needs it, and short enough to wait for that.
PATIENCE = 20.0
NOT_AWAITED = {
    "take",
    "transaction",
    "listen",
    "consume",
    "cursor",
    "connection",
    "queue",
    "notifies",
    "pipeline",
    "keep_alive",
    "export_jobs",
}


class Awaitable:
    """A synchronous object whose methods, contexts and iterators are called as if they were asynchronous.

    They run at once, in the caller's thread and context.
    """

    def __init__(self, plain: Any) -> None:
        self.plain = plain

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.plain, name)
        if not callable(found):
            return found

        def call(*args: Any, **options: Any) -> Any:
            # Not yet: a coroutine that nobody awaits must do nothing.
            if name in NOT_AWAITED:
                made = found(*args, **options)
                return Steps(made) if inspect.isgenerator(made) else Awaitable(made)
            return _later(found, args, options)

        return call

    def __getitem__(self, name: Any) -> Any:
        return adapt(self.plain[name])

    def __repr__(self) -> str:
        return repr(self.plain)

    async def __aenter__(self) -> Any:
        return adapt(self.plain.__enter__())

    async def __aexit__(self, *error: Any) -> Any:
        return self.plain.__exit__(*error)

    def __aiter__(self) -> Any:
        return Steps(iter(self.plain))


class Steps:
    """A synchronous iterator, iterated asynchronously. Dropped, it drops the iterator."""

    def __init__(self, plain: Iterator[Any]) -> None:
        self.plain = plain

    def __aiter__(self) -> Steps:
        return self

    async def __anext__(self) -> Any:
        for item in self.plain:
            return adapt(item)
        raise StopAsyncIteration

    async def aclose(self) -> None:
        self.plain.close()


async def _later(found: Callable[..., Any], args: Any, options: Any) -> Any:
    return adapt(found(*args, **options))


def adapt(value: Any) -> Any:
    if inspect.isgenerator(value):
        return Steps(value)
    if isinstance(value, list) and value and isinstance(value[0], pgq_py.Job):
        return [Awaitable(job) for job in value]
    adapted = (pgq_py.Queue, pgq_py.QueueSet, psycopg.Connection, psycopg.Cursor)
    if isinstance(value, adapted) or (hasattr(value, "__enter__") and type(value).__module__.startswith("pgq_py")):
        return Awaitable(value)
    return value


def plain(value: Any) -> Any:
    return value.plain if isinstance(value, Awaitable | Steps) else value


class World:
    """Makes PQs, connections and pools of one world, closed at the test's end."""

    def __init__(self, name: str, dsn: str) -> None:
        self.name = name
        self.dsn = dsn
        self.is_sync = name == "sync"
        self.listener = sync_listener if self.is_sync else async_listener
        self._opened: list[Any] = []

    def pq(self, *args: Any, **options: Any) -> Any:
        """A PQ; without arguments on the address of the test's database."""
        if not args and "pool" not in options:
            args = (self.dsn,)
        args = tuple(plain(arg) for arg in args)
        options = {key: plain(value) for key, value in options.items()}
        pq = Awaitable(pgq_py.PQ(*args, **options)) if self.is_sync else pgq_py.AsyncPQ(*args, **options)
        self._opened.insert(0, pq)
        return pq

    async def connect(self, autocommit: bool = False, **options: Any) -> Any:
        dsn = psycopg.conninfo.make_conninfo(self.dsn, **options.pop("conninfo", {}))
        if self.is_sync:
            conn: Any = Awaitable(psycopg.Connection.connect(dsn, autocommit=autocommit, **options))
        else:
            conn = await psycopg.AsyncConnection.connect(dsn, autocommit=autocommit, **options)
        self._opened.append(conn)
        return conn

    async def pool(self, **options: Any) -> Any:
        options = {"min_size": 1, "max_size": 4, "open": False, "timeout": PATIENCE, **options}
        if self.is_sync:
            pool: Any = Awaitable(psycopg_pool.ConnectionPool(self.dsn, **options))
        else:
            pool = psycopg_pool.AsyncConnectionPool(self.dsn, **options)
        await pool.open()
        self._opened.append(pool)
        return pool

    async def way(self, kind: str) -> Any:
        """A PQ by one of the three ways to make one."""
        if kind == "address":
            return self.pq()
        if kind == "pool":
            return self.pq(pool=await self.pool())
        return self.pq(await self.connect(autocommit=kind == "autocommit"))

    async def close(self) -> None:
        for opened in self._opened:
            await opened.close()


class Sleepers:
    """Knows when a blocked call has looked, found nothing and goes to sleep, and can act just before."""

    def __init__(self) -> None:
        self._asleep = threading.Semaphore(0)
        self.before: Callable[[], None] = lambda: None

    def wait(self) -> None:
        """Until one more blocked call goes to sleep."""
        assert self._asleep.acquire(timeout=PATIENCE), "nothing went to sleep"

    def note(self) -> None:
        self.before()
        self._asleep.release()


class Background:
    """Runs a function in a thread, its result or error to be had with `result`."""

    def __init__(self, function: Callable[..., Any], *args: Any) -> None:
        self._result: Any = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, args=(function, *args), daemon=True)
        self._thread.start()

    def _run(self, function: Callable[..., Any], *args: Any) -> None:
        try:
            self._result = function(*args)
        except BaseException as error:
            self._error = error

    def result(self) -> Any:
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive(), "the thread does not end"
        if self._error is not None:
            raise self._error
        return self._result


class Gate:
    """A proxy before the server's socket that counts round trips: how often the client waited for an answer.

    It can also cut a link, in the middle of a statement.
    """

    def __init__(self, folder: str, server: str) -> None:
        self.address = {"host": folder, "port": "5432"}
        self.round_trips = 0
        self._server = server
        self._text: bytes | None = None
        self._arrives = False
        self._listening = socket.socket(socket.AF_UNIX)
        self._listening.bind(f"{folder}/.s.PGSQL.5432")
        self._listening.listen()
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self, text: bytes, arrives: bool) -> None:
        """End the next link that sends this text: before the server has it, or after the server has answered."""
        self._text, self._arrives = text, arrives

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listening.accept()
                server = socket.socket(socket.AF_UNIX)
                server.connect(self._server)
                threading.Thread(target=self._relay, args=(client, server), daemon=True).start()

    def _relay(self, client: socket.socket, server: socket.socket) -> None:
        asked, cut = False, False
        with client, server, contextlib.suppress(OSError):
            while True:
                ready, _, _ = select.select([client, server], [], [])
                for source, target in ((client, server), (server, client)):
                    if source not in ready:
                        continue
                    data = source.recv(65536)
                    if not data:
                        return
                    if source is server and asked:
                        self.round_trips += 1
                    if source is server and cut:
                        return
                    if source is client and self._text is not None and self._text in data:
                        self._text, cut = None, True
                        if not self._arrives:
                            return
                    asked = source is client
                    target.sendall(data)

    def close(self) -> None:
        """Nobody gets through any more who is not connected."""
        with contextlib.suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)  # a close alone would let in one more, who is accepted already
        self._listening.close()
