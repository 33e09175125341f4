"""Several workers as processes: starts them, starts them again, passes signals on."""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from time import monotonic

from ._compat import jitter
from .health import Notifier, notify

log = logging.getLogger("pgq_py.worker")

AGAIN = 75
"""The exit code by which a process asks for another one in its place: it has too much memory, or old code."""
WRONG = 2
"""The exit code of a command that was given wrong: the next would say the same."""
PARENT = "PGQ_PY_PARENT"
"""The variable that tells a process a file descriptor, which is at its end when the supervisor is gone."""

# Seconds before a process that died is started again: at first, and at most; doubled if it did not live for RECOVERED.
RETRY_FIRST, RETRY_LAST, RECOVERED = 0.1, 30.0, 10.0
# The same at most where somebody sits and changes the code.
RELOAD_LAST = 1.0
# How often the supervisor looks after its processes, in seconds.
TICK = 0.2
# What a process has beyond its grace before it is killed.
EXTRA = 10.0


class Child:
    """The process of one number, and those before it."""

    def __init__(self, number: int, folder: Path, longest: float = RETRY_LAST) -> None:
        self.number = number
        self._longest = longest
        self.process: subprocess.Popen[bytes] | None = None
        self.is_ready = self.is_over = self.is_asked = self.was_ready = False
        self.code = 0
        self._pause = RETRY_FIRST
        self._started_at = self.start_at = 0.0
        self.lived_at = 0.0
        # It speaks to us as to systemd.
        self.socket = folder / str(number)
        self._hearing = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._hearing.bind(str(self.socket))
        self._hearing.setblocking(False)

    def start(self, command: Sequence[str], environment: Mapping[str, str], parent: int) -> None:
        """Start a process."""
        self.is_ready = self.is_asked = False
        self._started_at = self.lived_at = monotonic()
        self.process = subprocess.Popen(
            command,
            env={
                **environment,
                "NOTIFY_SOCKET": str(self.socket),
                "WATCHDOG_USEC": "4000000",
                PARENT: str(parent),
                "PGQ_PY_NUMBER": str(self.number),
            },
            stdin=subprocess.DEVNULL,
            pass_fds=[parent],
            # Control-C goes to the whole group of a terminal: it is ours to pass on.
            process_group=0,
        )

    def hear(self) -> None:
        """What it has said since."""
        with suppress(BlockingIOError):
            while True:
                said = self._hearing.recv(4096).decode().splitlines()
                self.lived_at = monotonic()
                if "READY=1" in said:
                    self.is_ready = self.was_ready = True

    def look(self, is_stopping: bool) -> None:
        """See whether it has ended, and when to start the next."""
        if self.process is None or (code := self.process.poll()) is None:
            return
        self.process, self.code = None, code
        is_meant = self.is_asked or code == AGAIN
        # What was right once may be again: code that is just being replaced.
        is_wrong = code == WRONG and not self.was_ready
        if is_stopping or is_wrong or (code == 0 and not is_meant):
            self.is_over = True
            if code == -signal.SIGTERM:
                self.code = 0  # ours, before it could hear it
            return
        if self.is_asked or monotonic() - self._started_at > RECOVERED:
            self._pause = RETRY_FIRST
        pause = 0.0 if self.is_asked else jitter(self._pause)
        self._pause = min(self._longest, 2 * self._pause)
        self.start_at = monotonic() + pause
        if not is_meant:
            how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"has failed with exit code {code}"
            log.error("worker process %s %s; the next starts in %.1f s", self.number, how, pause)

    def signal(self, number: int) -> None:
        """Send it a signal."""
        if self.process is not None:
            self.process.send_signal(number)

    def close(self) -> None:
        """Hear no more."""
        self._hearing.close()


class Supervisor:
    """Runs a command as several processes.

    One that dies is started again, after a pause that grows; one that ends with exit code 0 has done its work, and
    `run` is over when all have. SIGTERM and SIGINT are passed on, and end it. SIGHUP ends the
    processes one after the other, as SIGTERM does, and starts others; where it says that the terminal was closed, it
    is as SIGTERM.

    Args:
        command: the program and its arguments. Its process says READY=1 as to systemd, and finds its number in
            PGQ_PY_NUMBER.
        processes: how many.
        grace: seconds that they need to end; after some more they are killed.
        longest: seconds before one that died is started again, at most.
    """

    def __init__(self, command: Sequence[str], processes: int, grace: float, longest: float = RETRY_LAST) -> None:
        self._command = command
        self._count = processes
        self._grace = grace
        self._longest = longest
        self._signals: SimpleQueue[int] = SimpleQueue()
        self._stops = 0
        self._kill_at = float("inf")
        self._was_ready = False
        # Under nohup a terminal may go.
        self._needs_terminal = _has_terminal() and signal.getsignal(signal.SIGHUP) != signal.SIG_IGN
        self._hang_up: list[Child] = []
        self._notifier = Notifier(lambda: all(monotonic() - child.lived_at < 60 for child in self._children))
        self._children: list[Child] = []

    def run(self) -> int:
        """Until all are done or were stopped; gives the exit code."""
        # Only we hold the other end: when we are gone, however, the processes see it.
        parent, ours = os.pipe()
        wanted = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
        before = {number: signal.signal(number, lambda number, _: self._signals.put(number)) for number in wanted}
        try:
            with tempfile.TemporaryDirectory(prefix="pgq_py") as folder:
                self._children = [Child(number, Path(folder), self._longest) for number in range(self._count)]
                return self._attend(parent)
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            os.close(parent)
            os.close(ours)
            for child in self._children:
                child.close()

    def _attend(self, parent: int) -> int:
        environment = {key: value for key, value in os.environ.items() if not key.startswith("WATCHDOG_")}
        while True:
            for child in self._children:
                child.hear()
                child.look(self._stops > 0)
                if not child.is_over and child.process is None and monotonic() >= child.start_at:
                    child.start(self._command, environment, parent)
            if all(child.is_over for child in self._children):
                codes = {child.code for child in self._children} - {0, AGAIN}
                return 0 if not codes else WRONG if codes == {WRONG} else 1
            if not self._was_ready and all(child.is_ready for child in self._children):
                self._was_ready = True
                self._notifier("ready")
            self._notifier("tick")
            self._hand_over()
            if monotonic() > self._kill_at:
                self._send(signal.SIGKILL)
            try:
                self._on_signal(self._signals.get(timeout=TICK))
            except Empty:
                continue

    def _on_signal(self, number: int) -> None:
        if number == signal.SIGHUP and (_has_terminal() or not self._needs_terminal):
            if not self._stops:  # to those that end it would be the second signal
                self._hang_up = [child for child in self._children if not child.is_over]
            return
        self._stops += 1
        if self._stops == 1:
            notify("STOPPING=1")
            self._hang_up = []
            self._kill_at = monotonic() + self._grace + EXTRA
        else:
            self._kill_at = min(self._kill_at, monotonic() + EXTRA)
        for child in self._children:
            if not child.is_over and child.process is None:
                child.is_over, child.code = True, 0
        self._send(signal.SIGTERM)

    def _hand_over(self) -> None:
        """End the next process whose code is old, when the one before has a successor."""
        if self._hang_up and all(child.is_ready or child.is_over for child in self._children):
            child = self._hang_up.pop(0)
            child.is_asked, child.is_ready = True, False
            child.signal(signal.SIGTERM)

    def _send(self, number: int) -> None:
        for child in self._children:
            child.signal(number)


def _has_terminal() -> bool:
    """Whether a terminal controls this process: one that was closed does not any more."""
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY))
    except OSError:
        return False
    return True


def end_with_parent() -> None:
    """In a process of a supervisor: end as at SIGTERM when that is gone."""
    given = os.environ.pop(PARENT, None)
    if given is None:
        return

    def wait() -> None:
        os.read(int(given), 1)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, name="pgq_py parent", daemon=True).start()


def this_command(arguments: Sequence[str]) -> list[str]:
    """`pgq-py` with these arguments, by the Python that runs here."""
    # `-m` would let a queue.py of the user's take the place of the standard library's, where `pgq-py` does not.
    is_here = sys.path[:1] in ([""], [str(Path.cwd())])
    return [sys.executable, *([] if is_here else ["-P"]), "-m", "pgq_py.cli", *arguments]
