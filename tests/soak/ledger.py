"""Ledgers: what a process meant to do, and what came of it. One JSON object a line, two lines an operation.

A line is one `write` to a file opened for appending: it is there, whole, when the process is killed right
after. The file system keeps it, as nobody pulls the machine's plug. An operation without a second line was cut
off: nobody knows whether it was done.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import time
from typing import Any

import psycopg

from pgq_py import Error
from pgq_py.errors import CommitUnknown

OK, FAILED, UNKNOWN = "ok", "failed", "unknown"


class Entry:
    """An operation that is being done, or about to be."""

    def __init__(self, ledger: Ledger, do: str, conn: psycopg.Connection[Any] | None) -> None:
        self._ledger = ledger
        self._do = do
        self.op: int | None = None
        self.result: dict[str, Any] = {}
        # Of plain SQL: whether losing the connection now leaves it open what was done. The package says so itself.
        self.committing = conn is not None and conn.autocommit

    def begin(self, **what: Any) -> None:
        """It is about to be done."""
        self.op = self._ledger.begin(self._do, **what)

    def note(self, **result: Any) -> None:
        """What is to be written down when it has been done."""
        self.result.update(result)


class RolledBack(Exception):
    """Raised by an actor to undo what it did."""


def outcome_of(error: BaseException, committing: bool, closed: bool) -> str:
    """Whether what raised this was surely not done.

    The package's word is taken: only CommitUnknown leaves it open. If that is wrong, the accounts will not balance.
    """
    if isinstance(error, CommitUnknown):
        return UNKNOWN
    if isinstance(error, Error) or not isinstance(error, psycopg.Error):
        return FAILED
    return UNKNOWN if committing and closed else FAILED


class Ledger:
    """The writer."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        self._lock = threading.Lock()
        self._ops = 0

    def write(self, **line: Any) -> None:
        os.write(self._file, json.dumps({"at": round(time(), 6), **line}).encode() + b"\n")

    def begin(self, do: str, **what: Any) -> int:
        """Something is about to be done; gives its number."""
        with self._lock:
            self._ops += 1
            op = self._ops
        self.write(op=op, do=do, **what)
        return op

    def end(self, op: int, out: str, **result: Any) -> None:
        """What came of it."""
        self.write(op=op, out=out, **result)

    @contextmanager
    def operation(self, do: str, conn: psycopg.Connection[Any] | None = None, **what: Any) -> Iterator[Entry]:
        """Both lines around a block; without WHAT, the first where the block says so. CONN is that of plain SQL."""
        entry = Entry(self, do, conn)
        if what:
            entry.begin(**what)
        try:
            yield entry
        except BaseException as error:
            if entry.op is not None:
                out = outcome_of(error, entry.committing, closed=conn is not None and conn.closed)
                self.end(entry.op, out, error=name_of(error), **entry.result)
            raise
        if entry.op is not None:
            self.end(entry.op, OK, **entry.result)


def name_of(error: BaseException) -> str:
    """For the figures: the SQLSTATE, if there is one, and the class."""
    state = getattr(error, "sqlstate", None)
    return f"{state} {type(error).__name__}" if state else type(error).__name__


@dataclass(slots=True)
class Operation:
    """One operation, as its two lines say it."""

    actor: str
    """Which process: name and number of its life."""
    op: int
    do: str
    began: float
    what: dict[str, Any]
    ended: float = float("inf")
    out: str = UNKNOWN
    result: dict[str, Any] = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        """The actor's name, whatever life."""
        return self.actor.split("#")[0]

    def __getitem__(self, key: str) -> Any:
        return self.result[key] if key in self.result else self.what[key]

    def get(self, key: str, default: Any = None) -> Any:
        return self.result.get(key, self.what.get(key, default))


def read_lines(actor: str, lines: Iterable[str]) -> Iterator[Operation]:
    """The operations of one ledger, as they began."""
    open_ones: dict[int, Operation] = {}
    found: list[Operation] = []
    for line in lines:
        if not line.endswith("\n"):
            continue  # killed within the write; the operation has no such line then
        said = json.loads(line)
        at, op = said.pop("at"), said.pop("op")
        if "do" in said:
            open_ones[op] = Operation(actor, op, said.pop("do"), at, said, lines=[line])
            found.append(open_ones[op])
        else:
            operation = open_ones.pop(op)
            operation.ended, operation.out = at, said.pop("out")
            operation.result = said
            operation.lines.append(line)
    return iter(found)


def read_folder(folder: Path) -> list[Operation]:
    """All operations of all ledgers in a folder, in the order in which they began."""
    found: list[Operation] = []
    for path in sorted(folder.glob("*.jsonl")):
        with path.open() as lines:
            found += read_lines(path.stem, lines)
    return sorted(found, key=lambda operation: operation.began)
