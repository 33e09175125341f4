"""What `pgq-py work` does around a worker: finds the code, tells how it goes, ends and starts again."""

from __future__ import annotations

import asyncio
import atexit
import inspect
import json
import logging
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any, NoReturn

from .health import STALE, Health, Notifier
from .supervisor import AGAIN, PARENT

if TYPE_CHECKING:
    from . import PQ, AsyncPQ, AsyncWorker, Worker

# How often files are looked at for changes, in seconds.
LOOK = 0.5
# How long code that can't be imported is waited for to change, in seconds.
MEND = 10.0
# Seconds that the functions of `atexit` have, where a handler can't be ended.
LAST = 2.0
# The exit code of a run that has failed, as of any command.
FAILED = 1


class NotFound(Exception):
    """The code that was named is not there, or is not what a worker can run."""


class Broken(Exception):
    """The code can't be imported; the text is the traceback."""


class Stopped(SystemExit):
    """SIGTERM came before the worker could hear it."""


@contextmanager
def stoppable() -> Iterator[None]:
    """While the block runs, SIGTERM ends the process with exit code 0; until a worker hears it.

    Without a handler process 1 of a container would not hear it at all. The first SIGHUP is as SIGTERM, unless nohup
    has said otherwise: a terminal that is closed would leave the jobs to their leases. But not in a process of a
    supervisor's, to which the end by SIGTERM says that all is done.
    """

    def stop(number: int, frame: object) -> None:
        raise Stopped(0)

    def pass_on(number: int, frame: object) -> None:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # the shell may repeat what the terminal said
        os.kill(os.getpid(), signal.SIGTERM)

    before = {signal.SIGTERM: signal.signal(signal.SIGTERM, stop)}
    if PARENT not in os.environ and signal.getsignal(signal.SIGHUP) == signal.SIG_DFL:
        before[signal.SIGHUP] = signal.signal(signal.SIGHUP, pass_on)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def load(target: str) -> tuple[PQ | AsyncPQ | None, Callable[..., Any] | None]:
    """The PQ and the handler that `module`, `module:pq` or `module:handler` names.

    Of a module alone its one PQ, with the tasks that it has.

    Raises:
        NotFound: there is none, or more than one; the text says what to write.
        Broken: the import of the module has failed.
    """
    from . import PQ, AsyncPQ

    name, _, attribute = target.partition(":")
    if not all(part.isidentifier() for part in name.split(".")):
        raise NotFound(f"{name!r} is not the name of a module: write package.module, or package.module:name")
    sys.path.insert(0, str(Path.cwd()))
    try:
        module = import_module(name)
    except Stopped:
        raise
    except (Exception, SystemExit) as error:  # a program, which would seem to have done its work
        if isinstance(error, ModuleNotFoundError) and (name + ".").startswith(f"{error.name}."):
            raise NotFound(f"there is no module {error.name!r} in {Path.cwd()} or where Python looks") from None
        raise Broken(traceback.format_exc()) from error
    found = {key: value for key, value in vars(module).items() if isinstance(value, PQ | AsyncPQ)}
    named: Any = None
    if attribute:
        try:
            named = getattr(module, attribute)
        except AttributeError:
            raise NotFound(f"there is no {attribute!r} in {name}") from None
        if isinstance(named, PQ | AsyncPQ):
            return named, None
        if hasattr(named, "verdict"):
            raise NotFound(f"{target} is a task: write {name}, for all of its tasks")
        if not callable(named):
            raise NotFound(f"{target} is neither a PQ nor a function to be called with each job")
    if len(set(found.values())) > 1:
        raise NotFound(f"there are several PQs in {name}: write {name}:{min(found)}, for example")
    pq = next(iter(found.values()), None)
    if pq is None and named is None:
        raise NotFound(f"there is no PQ in {name}")
    return pq, named


def queues_for(pq: PQ | AsyncPQ, names: Iterable[str]) -> dict[Any, float]:
    """The queues of a command line, "mail" or "mail=3", with their weights; of all tasks if none is named.

    Raises:
        ValueError: a weight that is no number.
        NotFound: none is named, and there is no task.
    """
    tasked: dict[str, Any] = {task.queue.name: task.queue for task in pq.tasks}
    weights: dict[str, float] = {}
    for text in names:
        name, equals, weight = text.rpartition("=")
        try:
            weights[name if equals else text] = float(weight) if equals else 1.0
        except ValueError:
            raise ValueError(
                f"{text!r} is no NAME=WEIGHT: {weight!r} is no number. If it is all name, write '{text}=1'"
            ) from None
    if not weights:
        weights = dict.fromkeys(tasked, 1.0)
    if not weights:
        raise NotFound("which queue? There is no task that says; write --queue NAME")
    # As its tasks have it: with their serializer.
    return {tasked.get(name) or pq[name]: weight for name, weight in weights.items()}


class Changes:
    """Notices that a file changed from which a module of this process comes, but for installed ones.

    Args:
        files: more of them, of modules that could not be imported.
    """

    def __init__(self, files: Iterable[str] = ()) -> None:
        self._known = {path: _changed_at(path) for path in files if not _is_installed(path)}
        self._looked_at = monotonic()
        self._look()

    def _look(self) -> str | None:
        for module in list(sys.modules.values()):
            path = getattr(module, "__file__", None)
            if not path or path in self._known or _is_installed(path):
                continue
            self._known[path] = _changed_at(path)
        return next((path for path, changed in self._known.items() if _changed_at(path) != changed), None)

    def __call__(self) -> str | None:
        """The reason to start again, if there is one."""
        if monotonic() - self._looked_at < LOOK:
            return None
        self._looked_at = monotonic()
        changed = self._look()
        return None if changed is None else f"{changed} has changed"


def await_change(error: Broken) -> None:
    """Until the code that could not be imported has changed; or some seconds, as what it lacks may be there then."""
    cause = error.__cause__
    files = [frame.filename for frame in traceback.extract_tb(cause.__traceback__)] if cause else []
    if isinstance(cause, SyntaxError) and cause.filename:
        files.append(cause.filename)
    changes, until = Changes(files), monotonic() + MEND
    while monotonic() < until and changes() is None:
        sleep(LOOK)


def _is_installed(path: str) -> bool:
    return "site-packages" in path or path.startswith(str(Path(os.__file__).parent))


def _changed_at(path: str) -> float | None:
    try:
        return Path(path).stat().st_mtime_ns
    except OSError:
        return None


def run(
    worker: Worker | AsyncWorker,
    *,
    health: tuple[str, int] | None = None,
    reload: bool = False,
) -> int:
    """Run a worker as the work of this process; gives the exit code: 0, or AGAIN if another should follow.

    SIGTERM and SIGINT stop it, systemd is told how it goes, and where a handler can't be ended
    the process is.

    Args:
        worker: to be run.
        health: host and port to answer /live and /ready on.
        reload: end when the code has changed.

    Raises:
        OSError: the port can't be had.
        Error: what `worker.run` raises.
    """
    worker.listeners.append(Notifier(lambda: all(seconds < STALE for seconds in worker.idle_for().values())))
    if reload:
        worker.checks.append(Changes())
    server = None
    if health is not None:
        server = Health(worker, *health)
        logging.getLogger("pgq_py.worker").info("answers /live and /ready on %s, port %s", health[0], server.port)
    try:
        if inspect.iscoroutinefunction(worker.run):
            asyncio.run(_run_async(worker))
        else:
            with _leaving(worker):
                worker.run(signals=True)
    finally:
        if server is not None:
            server.close()
    return exit_code(worker)


async def _run_async(worker: Any) -> None:
    # Not through the end of the loop: it would wait for the threads of its executor.
    with _leaving(worker):
        await worker.run(signals=True)


@contextmanager
def _leaving(worker: Worker | AsyncWorker) -> Iterator[None]:
    """Around its run: if that was cut short, the process ends here, also where the run has failed."""
    try:
        yield
    except Exception as error:
        if worker.was_cut_short:
            text = str(error).partition("\n")[0]
            logging.getLogger("pgq_py.worker").error("failed: %s: %s", type(error).__name__, text)
            leave_now(worker, FAILED)
        raise
    if worker.was_cut_short:
        leave_now(worker, exit_code(worker))


def exit_code(worker: Worker | AsyncWorker) -> int:
    """0, or AGAIN if the worker ended for a reason that the next does not have."""
    return 0 if worker.ended_by in ("stop", "now", "nothing left") else AGAIN


def leave_now(worker: Worker | AsyncWorker, code: int) -> NoReturn:
    """End the process without waiting for what handlers leave behind: asyncio.to_thread's threads, processes."""
    try:
        if worker.is_stuck:
            logging.getLogger("pgq_py.worker").warning(
                "ends while a handler runs that can't be ended: its job was returned"
            )
        # Beside us: that of multiprocessing waits for the processes that a handler has begun.
        last = threading.Thread(target=atexit._run_exitfuncs, daemon=True)
        last.start()
        last.join(LAST)
        logging.shutdown()
        sys.stderr.flush()
        sys.stdout.flush()
    finally:  # whatever the handler has closed
        os._exit(code)


class JSONLines(logging.Formatter):
    """A line of JSON for each record, with what it says about a job."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        line: dict[str, Any] = {
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S%z"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        for key in ("queue", "job_id", "attempt", "task"):
            value = getattr(record, key, None)
            if value is not None:
                line[key] = value
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


def log_to_stderr(level: str, as_json: bool) -> None:
    """Let the log go to stderr, unless the code has set up one of its own."""
    handler = logging.StreamHandler()
    handler.setFormatter(JSONLines() if as_json else logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logging.basicConfig(level=level, handlers=[handler])
