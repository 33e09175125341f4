"""Links to a server that can be cut, and servers that crash."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import fcntl
import socket
import struct
import subprocess
import termios
import threading
from collections.abc import Callable, Coroutine
from time import monotonic, sleep
from typing import Any

from servers import Server
from worlds import PATIENCE, World

SO_ATTACH_FILTER, SO_DETACH_FILTER = 26, 27


def deafen(sock: socket.socket) -> None:
    """Let the kernel drop all packets that come for a socket: no acknowledgement, no answer to a keepalive.

    That is what a link that is cut looks like from its other end. By a socket filter (one BPF instruction,
    "return 0 bytes"), for which nobody needs to be root.
    """
    code = ctypes.create_string_buffer(struct.pack("HBBI", 0x06, 0, 0, 0))
    sock.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, struct.pack("HL", 1, ctypes.addressof(code)))


class Link:
    """A TCP address before a server's Unix socket, whose link can be cut without a word to either side."""

    def __init__(self, server: Server) -> None:
        self._server = f"{server.host}/.s.PGSQL.{server.port}"
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._ends: list[socket.socket] = []
        self._alive: set[socket.socket] = set()
        self.address = {"host": "127.0.0.1", "port": str(self._listening.getsockname()[1])}
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listening.accept()
                server = socket.socket(socket.AF_UNIX)
                self._ends += [client, server]
                server.connect(self._server)
                self._alive.add(client)
                for source, target in ((client, server), (server, client)):
                    threading.Thread(target=self._pump, args=(client, source, target), daemon=True).start()

    def _pump(self, client: socket.socket, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if client in self._alive:
                    target.sendall(data)
            if client in self._alive:
                target.shutdown(socket.SHUT_WR)

    def cut(self) -> None:
        """Nothing gets through any more, in neither direction, and nobody is told."""
        deafen(self._listening)
        cut, self._alive = self._alive, set()
        for client in cut:
            # What is not acknowledged yet would be sent again and again, and be a sign of life.
            while fcntl.ioctl(client, termios.TIOCOUTQ, b"0000") != bytes(4):
                sleep(0.001)
            deafen(client)

    def heal(self) -> None:
        """Who connects now gets through; what was cut stays so."""
        self._listening.setsockopt(socket.SOL_SOCKET, SO_DETACH_FILTER, 0)

    def close(self) -> None:
        for end in [self._listening, *self._ends]:
            end.close()


def restart_after_crash(server: Server) -> None:
    """Again, when the last process of the crashed server has noticed."""
    patience = monotonic() + PATIENCE
    while True:
        try:
            server.start()
            return
        except subprocess.CalledProcessError:
            assert monotonic() < patience, server.log()


async def until(condition: Callable[[], bool]) -> None:
    """Until this is so, while the other tasks go on."""
    patience = monotonic() + PATIENCE
    while not condition():
        assert monotonic() < patience
        await asyncio.sleep(0.01)


def side_by_side(world: World, work: Callable[..., Coroutine[Any, Any, Any]], *args: Any) -> asyncio.Future[Any]:
    """Run a coroutine beside the test: in a thread for the synchronous world, whose calls block, else as a task."""
    if not world.is_sync:
        return asyncio.ensure_future(work(*args))
    loop = asyncio.get_running_loop()
    done = loop.create_future()

    def run() -> None:
        try:
            result, error = asyncio.run(work(*args)), None
        except BaseException as raised:
            result, error = None, raised
        with contextlib.suppress(RuntimeError):  # the test has failed, and its loop is closed
            loop.call_soon_threadsafe(lambda: done.set_exception(error) if error else done.set_result(result))

    threading.Thread(target=run, daemon=True).start()
    return done
