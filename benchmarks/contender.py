"""What a queue offers to the workloads, and the list of those that compete.

A contender is one client: a process makes its own, connects it, and calls its operations. What
only some queues can do is a class for each such operation: a contender derives from those that it
offers, and workloads name those that they need.
"""

from __future__ import annotations

import importlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias

Data: TypeAlias = dict[str, Any]

# What `receive` calls: with each job, with None when idle; False ends it.
OnJob: TypeAlias = Callable[[Data | None], bool]

# The order of the tables' columns.
NAMES = (
    "ours",
    "ours-sql",
    "bare",
    "bare-plpgsql",
    "bare-from-last",
    "pgqueuer",
    "pq",
    "pgmq",
    "procrastinate",
    "py-q4pg",
    "hotqueue",
    "hotqueue-durable",
)
NOT_RIVALS = ("ours", "ours-sql", "bare", "bare-plpgsql", "bare-from-last")

# Jobs in one statement where many are put to prepare a measurement.
BATCH = 10_000


@dataclass(frozen=True)
class Place:
    """Where a contender's data are: a database of its own, or a Redis."""

    host: str
    dbname: str
    port: int = 5432
    user: str = "postgres"
    redis: str = ""
    # For libpq's `options`.
    options: str = ""

    @property
    def dsn(self) -> str:
        """For libpq."""
        return f"host={self.host} port={self.port} user={self.user} dbname={self.dbname} options='{self.options}'"


class Contender(ABC):
    """A client of one queue, with what all have. The classes below add an operation each."""

    name: ClassVar[str]
    # How it is used here, in a line of the report.
    about: ClassVar[str] = ""
    # The distributions whose versions are noted.
    packages: ClassVar[tuple[str, ...]] = ()
    # The server that it works on: postgresql, redis or redis-durable.
    needs: ClassVar[str] = "postgresql"
    # How many jobs are in the queue and can be taken, and the sum of their numbers: count, sum.
    left_sql: ClassVar[str] = ""
    # The workloads that it takes part in, if not all for which it has the operations.
    workloads: ClassVar[tuple[str, ...]] = ()

    def __init__(self, place: Place) -> None:
        self.place = place

    # Its life

    @abstractmethod
    def install(self) -> None:
        """Make its tables and functions in an empty database. Not connected yet."""

    @abstractmethod
    def connect(self) -> None:
        """Open what it works through."""

    @abstractmethod
    def close(self) -> None:
        """Close that."""

    def left(self) -> tuple[int, int]:
        """How many jobs are in the queue, and the sum of their numbers. Connected or not."""
        import psycopg

        with psycopg.connect(self.place.dsn) as conn:
            count, total = conn.execute(self.left_sql.encode()).fetchone() or (0, 0)
            return int(count), int(total)

    # Its jobs

    @abstractmethod
    def put(self, data: Data) -> None:
        """Durable when it returns."""

    def put_waking(self, data: Data) -> None:
        """The same, and wake whoever sleeps."""
        self.put(data)

    @abstractmethod
    def fill(self, numbers: Iterable[int]) -> None:
        """Put many jobs to prepare a measurement, by whatever way is fastest."""


class Chooses(Contender):
    """Has many queues."""

    @abstractmethod
    def choose(self, queues: Sequence[str]) -> None:
        """Work on these queues from now on; before that it is the one called "bench"."""


class Gets(Contender):
    """Takes a job in one call."""

    @abstractmethod
    def get(self) -> Data | None:
        """Take a job and remove it, durable when it returns; None if there is none."""


class Leases(Contender):
    """Takes a job in two calls."""

    @abstractmethod
    def lease_complete(self) -> Data | None:
        """Lease a job, then complete it, each durable when it returns."""


class Cycles(Contender):
    """Takes jobs that failed again."""

    @abstractmethod
    def cycle(self, data: Data) -> None:
        """Put, lease, record an error and put back at once, lease, complete."""


class Works(Contender):
    """Has workers: threads that call a handler with each job."""

    @abstractmethod
    def loop(self, count: int, size: int) -> list[int]:
        """Lease a batch and complete it, again and again, until so many are done; gives their numbers."""

    @abstractmethod
    def work(self, count: int, threads: int) -> list[int]:
        """The same by a worker, from its beginning to its end."""


class PutsMany(Contender):
    """Puts many jobs in one call."""

    @abstractmethod
    def put_many(self, items: Sequence[Data]) -> None:
        """All in one call."""

    def fill(self, numbers: Iterable[int]) -> None:
        """By that call."""
        for batch in batches(numbers):
            self.put_many([payload(n) for n in batch])


class GetsMany(Contender):
    """Takes many jobs in one call."""

    @abstractmethod
    def get_many(self, count: int) -> list[Data]:
        """Take and remove up to `count` jobs in one call."""


class LeasesMany(Contender):
    """Takes many jobs in two calls."""

    @abstractmethod
    def lease_complete_many(self, count: int) -> list[Data]:
        """Lease up to `count` jobs in one call, complete them in another."""


class PutsLater(Contender):
    """Schedules jobs."""

    @abstractmethod
    def put_later(self, items: Sequence[Data], seconds: float) -> None:
        """Put jobs that come due all at the same moment, so many seconds from now."""


class Holds(Contender):
    """Leases jobs for long."""

    @abstractmethod
    def hold(self, count: int) -> None:
        """Lease `count` jobs, for longer than a measurement takes, and leave them."""


class Receives(Contender):
    """Has consumers that sleep."""

    @abstractmethod
    def receive(self, on_job: OnJob) -> None:
        """Take job after job as a consumer does that sleeps when there are none."""


class Sleeps(Contender):
    """Has consumers that sleep many in a process."""

    @abstractmethod
    def sleep(self, queues: Sequence[str], asleep: Callable[[], object]) -> None:
        """Let a consumer of each of these queues, on a connection of its own, sleep and take what wakes it, for ever.

        As cheaply as can be: what they cost is missing elsewhere. `asleep` is called when they sleep.
        """


def payload(number: int) -> Data:
    """The data of a job: 100 bytes of JSON, with the number by which it is known again."""
    data = {"n": number, "pad": ""}
    data["pad"] = "x" * (100 - len(json.dumps(data)))
    return data


def batches(numbers: Iterable[int], size: int = BATCH) -> Iterable[list[int]]:
    """Lists of at most `size`."""
    batch: list[int] = []
    for n in numbers:
        batch.append(n)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def module_of(name: str) -> str:
    """Where a contender is written."""
    module = {
        "ours-sql": "ours",
        "bare-plpgsql": "bare",
        "bare-from-last": "bare",
        "py-q4pg": "q4pg",
        "hotqueue-durable": "hotqueue",
    }.get(name, name)
    return f"benchmarks.contenders.{module}"


def find(name: str) -> type[Contender]:
    """A contender's class.

    Raises:
        ImportError: its packages are not installed, or don't run here.
    """
    module = importlib.import_module(module_of(name))
    found: dict[str, type[Contender]] = {
        value.name: value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, Contender) and hasattr(value, "name")
    }
    return found[name]
