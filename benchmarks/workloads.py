"""The workloads, W1 to W15.

Each is a function that measures one contender once, in a database made for it alone: a copy of one
that was prepared before, so that each round begins with the same pages. It returns the figures of
that round; "value" is the one that is compared.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any, TypeAlias

import psycopg

from .contender import (
    Chooses,
    Contender,
    Cycles,
    Gets,
    GetsMany,
    Holds,
    Leases,
    LeasesMany,
    Place,
    PutsLater,
    PutsMany,
    Receives,
    Sleeps,
    Works,
    payload,
)
from .server import PostgreSQL, Redis
from .workers import Done, Worker, run, started

Figures: TypeAlias = dict[str, Any]
Prepare: TypeAlias = Callable[[Contender], object]


@dataclass(frozen=True)
class Options:
    """How much is measured."""

    rounds: int = 3
    seconds: float = 3
    # W9
    snapshot_seconds: float = 90
    snapshot_rounds: int = 1
    long_snapshot_seconds: float = 600
    processes: int = 8
    # Jobs that a consumer is given for each second, more than it can take.
    depth: int = 6_000
    bulk: int = 100_000
    few: int = 10_000
    many: int = 1_000_000
    parked: int = 200_000
    due: int = 200_000
    queues: int = 1_000
    sleepers: int = 50
    wakes: int = 100
    pauses: tuple[float, float] = (0.05, 0.3)
    large: int = 1_000_000
    threads: int = 8
    # How long a loop of a single SQL function is.
    function_seconds: float = 2

    @property
    def edge(self) -> float:
        """Seconds at the beginning and end of W9 that are compared."""
        return min(10, self.snapshot_seconds / 4)

    def title(self, text: str) -> str:
        """A workload's title with its numbers."""
        return text.format(edge=self.edge, set=self.queues // self.processes, **asdict(self))


QUICK = Options(
    rounds=1, seconds=0.3, snapshot_seconds=2, processes=4, depth=5_000, bulk=10_000, few=1_000, many=20_000,
    parked=5_000, due=2_000, queues=100, sleepers=20, wakes=12, pauses=(0.02, 0.05), function_seconds=0.5,
)  # fmt: skip


class Bench:
    """The servers and options of a run."""

    def __init__(self, server: PostgreSQL, redis: dict[str, Redis], options: Options) -> None:
        self.server = server
        self.redis = redis
        self.options = options
        self._templates: set[str] = set()

    @contextmanager
    def fresh(self, kind: type[Contender], key: str = "", prepare: Prepare | None = None) -> Iterator[Place]:
        """A place for one measurement, with what `prepare` puts there; the same `key`, the same preparation."""
        if kind.needs != "postgresql":
            redis = self.redis[kind.needs]
            redis.clear()
            place = Place("", "", redis=redis.socket)
            if prepare is not None:
                _connected(kind, place, prepare)
            yield place
            redis.clear()
            return
        template, name = self._template(kind, key, prepare), f"{kind.name}/measured/{key}"
        self.server.copy(template, name)
        self.server.checkpoint()
        try:
            yield self._place(name)
        finally:
            self.server.drop(name)

    def _template(self, kind: type[Contender], key: str, prepare: Prepare | None) -> str:
        name = f"{kind.name}/{key}"
        if name in self._templates:
            return name
        self.server.drop(name)  # half of one, left by a failure
        if prepare is None:
            self.server.copy("template0", name)
            kind(self._place(name)).install()
        else:
            self.server.copy(self._template(kind, "", None), name)
            _connected(kind, self._place(name), prepare)
            with self.server.admin(name) as conn:
                # As autovacuum would within a minute, but for all at the same moment.
                conn.execute("vacuum analyze")
        self._templates.add(name)
        return name

    def forget(self) -> None:
        """Drop what was prepared, but for the empty queues."""
        for name in [name for name in self._templates if not name.endswith("/")]:
            self.server.drop(name)
            self._templates.remove(name)

    def _place(self, dbname: str) -> Place:
        return Place(str(self.server.folder), dbname)


def _connected(kind: type[Contender], place: Place, work: Prepare) -> None:
    client = kind(place)
    client.connect()
    work(client)
    client.close()


def filled(numbers: range) -> Prepare:
    """Prepare by putting these."""
    return lambda client: client.fill(numbers)


class Wrong(Exception):
    """A job came twice, or not at all."""


def check(kind: type[Contender], place: Place, put: range, done: list[Done]) -> None:
    """Each job that was put was taken once or is still there."""
    taken = [n for one in done for n in one.taken]
    if len(set(taken)) < len(taken):
        raise Wrong(f"{kind.name}: {len(taken) - len(set(taken))} of {len(taken)} jobs came twice")
    if not set(taken) <= set(put):
        raise Wrong(f"{kind.name}: jobs came that were not put")
    count, total = kind(place).left()
    expected = (len(put) - len(taken), sum(put) - sum(taken))
    if (count, total) != expected:
        raise Wrong(f"{kind.name}: {count} jobs are left, and not {expected[0]}, or other ones")


def rate(done: list[Done]) -> Figures:
    """Jobs per second, from the first beginning to the last end."""
    seconds = max(one.end for one in done) - min(one.begin for one in done)
    jobs = sum(one.jobs for one in done)
    return {"value": jobs / seconds if jobs else 0.0, "jobs": jobs, "seconds": seconds}


# Puts


def put(bench: Bench, kind: type[Contender], processes: int = 1, sleepers: tuple[str, ...] = ()) -> Figures:
    """W1, W2 and W12: put one at a time."""
    with bench.fresh(kind) as place:
        sleeping = Worker("sleep", kind.name, place, {"queues": sleepers})
        args = {"seconds": bench.options.seconds}
        putting = [Worker("put", kind.name, place, {"first": n * 10_000_000, **args}) for n in range(processes)]
        with started([sleeping]) if sleepers else nullcontext():
            done = run(putting)
        figures = rate(done)
        if not sleepers:
            count, _ = kind(place).left()
            if count != sum(one.put for one in done):
                raise Wrong(f"{kind.name}: {count} jobs are there of {sum(one.put for one in done)}")
        return figures


def put_by_many(bench: Bench, kind: type[Contender]) -> Figures:
    """W2: by several processes."""
    return put(bench, kind, bench.options.processes)


def put_bulk(bench: Bench, kind: type[Contender]) -> Figures:
    """W3: put many in one call."""
    with bench.fresh(kind) as place:
        done = run([Worker("put_many", kind.name, place, {"count": bench.options.bulk})])
        count, _ = kind(place).left()
        if count != done[0].put:
            raise Wrong(f"{kind.name}: {count} jobs are there of {done[0].put}")
        return rate(done)


def put_beside_strangers(bench: Bench, kind: type[Contender]) -> Figures:
    """W12: W2 while consumers of other queues sleep."""
    queues = tuple(f"other {n}" for n in range(bench.options.sleepers))
    return put(bench, kind, bench.options.processes, queues)


def put_beside_consumers(bench: Bench, kind: type[Contender]) -> Figures:
    """W12: W2 while consumers of the same queue sleep."""
    return put(bench, kind, bench.options.processes, ("bench",) * bench.options.sleepers)


# Takes


def take(
    bench: Bench,
    kind: type[Contender],
    operation: str,
    processes: int = 1,
    size: int | None = None,
    jobs: int | None = None,
) -> Figures:
    """W4 to W6: take jobs that are there."""
    if jobs is None:
        jobs = round(bench.options.depth * max(1, bench.options.seconds) * (1 if processes == 1 else 2.5))
    numbers = range(jobs)
    with bench.fresh(kind, f"{jobs}", filled(numbers)) as place:
        args = {"operation": operation, "seconds": bench.options.seconds, "size": size}
        done = run([Worker("take", kind.name, place, args)] * processes)
        check(kind, place, numbers, done)
        return rate(done)


def get_one(bench: Bench, kind: type[Contender]) -> Figures:
    """W4."""
    return take(bench, kind, "get")


def lease_one(bench: Bench, kind: type[Contender]) -> Figures:
    """W4L."""
    return take(bench, kind, "lease_complete")


def _one(kind: type[Contender]) -> str:
    return "get" if issubclass(kind, Gets) else "lease_complete"


def take_by_many(bench: Bench, kind: type[Contender]) -> Figures:
    """W5: get; those that only lease do that."""
    return take(bench, kind, _one(kind), bench.options.processes)


def get_batch(bench: Bench, kind: type[Contender]) -> Figures:
    """W6: 100 in one call."""
    return take(bench, kind, "get_many", size=100, jobs=bench.options.bulk)


def lease_batch(bench: Bench, kind: type[Contender]) -> Figures:
    """W6L: 100 in two calls."""
    return take(bench, kind, "lease_complete_many", size=100, jobs=bench.options.bulk)


# How often one consumer goes to each place.
TURNS = 6


def in_turns(
    bench: Bench,
    kind: type[Contender],
    prepared: dict[str, Prepare],
    verify: Callable[[str, Place, list[Done]], None],
) -> Figures:
    """The rates of one consumer in each of these places, and how those compare with the first.

    In short turns, and compared within each: what slows the machine for a second or so slows all of them.
    """
    rates: dict[str, list[float]] = {name: [] for name in prepared}
    done: dict[str, list[Done]] = {name: [] for name in prepared}
    seconds, limit = bench.options.seconds / TURNS, bench.options.few // TURNS
    args = {"operation": _one(kind), "seconds": seconds, "limit": limit}
    with ExitStack() as stack:
        places = {name: stack.enter_context(bench.fresh(kind, name, prepared[name])) for name in prepared}
        for turn in range(TURNS):
            for name in list(places)[:: 1 if turn % 2 == 0 else -1]:
                now = run([Worker("take", kind.name, places[name], args)])
                rates[name].append(rate(now)["value"])
                done[name] += now
        for name, place in places.items():
            verify(name, place, done[name])
    first, *others = prepared
    ratios = {name: median(b / a for a, b in zip(rates[first], rates[name], strict=True)) for name in others}
    return {"value": min(ratios.values()), "ratios": ratios, "rates": rates}


def depth(bench: Bench, kind: type[Contender]) -> Figures:
    """W8: taken of few, and of many."""
    jobs = {"few": range(bench.options.few), "many": range(bench.options.many)}

    def verify(name: str, place: Place, done: list[Done]) -> None:
        check(kind, place, jobs[name], done)

    return in_turns(bench, kind, {name: filled(numbers) for name, numbers in jobs.items()}, verify)


def parked(bench: Bench, kind: type[Contender]) -> Figures:
    """W10: W4 beside many jobs that can't be taken: scheduled for tomorrow, or leased."""
    jobs = range(bench.options.few)
    others = range(10_000_000, 10_000_000 + bench.options.parked)

    plain = filled(jobs)

    def scheduled(client: Contender) -> None:
        assert isinstance(client, PutsLater)
        for start in range(0, len(others), 10_000):
            client.put_later([payload(n) for n in others[start : start + 10_000]], 86_400)
        plain(client)

    def leased(client: Contender) -> None:
        assert isinstance(client, Holds)
        client.fill(others)
        client.hold(len(others))
        plain(client)

    def verify(name: str, place: Place, done: list[Done]) -> None:
        taken = [n for one in done for n in one.taken]
        if len(set(taken)) < len(taken) or not set(taken) <= set(jobs):
            raise Wrong(f"{kind.name}: took a job twice, or one that could not be taken")

    prepared: dict[str, Prepare] = {"none": plain}
    if issubclass(kind, PutsLater):
        prepared["scheduled"] = scheduled
    if issubclass(kind, Holds):
        prepared["leased"] = leased
    return in_turns(bench, kind, prepared, verify)


def many_queues(bench: Bench, kind: type[Contender], sets: int | None = None) -> Figures:
    """W13: jobs spread over many queues, each process takes from a set of them."""
    processes = bench.options.processes
    names = [f"queue {n}" for n in range(bench.options.queues)]
    jobs = range(len(names) * round(bench.options.depth * max(1, bench.options.seconds) * 2.5 / len(names)))

    def prepare(client: Contender) -> None:
        assert isinstance(client, Chooses)
        for n, name in enumerate(names):
            client.choose([name])
            client.fill(jobs[n :: len(names)])

    with bench.fresh(kind, "queues", prepare) as place:
        args = {"operation": "get", "seconds": bench.options.seconds}
        done = run(
            [
                # Disjoint sets; or all queues, begun at different ones.
                Worker("take", kind.name, place, {"queues": _some(names, n, processes, sets), **args})
                for n in range(processes)
            ]
        )
        check(kind, place, jobs, done)
        return rate(done)


def _some(names: list[str], n: int, processes: int, sets: int | None) -> list[str]:
    start = n * len(names) // processes
    turned = names[start:] + names[:start]
    return turned[: sets or len(names) // processes]


def many_queues_each(bench: Bench, kind: type[Contender]) -> Figures:
    """W13: each process takes from all queues."""
    return many_queues(bench, kind, bench.options.queues)


# Time


def wake(bench: Bench, kind: type[Contender]) -> Figures:
    """W7: a sleeping consumer, and jobs put at random moments. Milliseconds."""
    options = bench.options
    with bench.fresh(kind) as place:
        with started([Worker("receive", kind.name, place, {"until": options.wakes - 1})]) as finish:
            time.sleep(1)
            putting = {"count": options.wakes, "pauses": options.pauses}
            sent = run([Worker("put_at_random", kind.name, place, putting)])[0].sent
            received = finish()[0].received
        if set(sent) != set(received):
            raise Wrong(f"{kind.name}: {len(received)} jobs came of {len(sent)}")
        counted = [n for n in sent if n >= 0]
        from_begin = sorted((received[n] - sent[n][0]) * 1e3 for n in counted)
        from_end = sorted((received[n] - sent[n][1]) * 1e3 for n in counted)
        return {"value": median(from_begin), "from_begin_ms": from_begin, "from_end_ms": from_end}


def snapshot(bench: Bench, kind: type[Contender], operation: str, seconds: float | None = None) -> Figures:
    """W9: put one and take one while another session holds an old snapshot: the last seconds against the first."""
    seconds = seconds or bench.options.snapshot_seconds
    edge = bench.options.edge
    with bench.fresh(kind) as place:
        with psycopg.connect(place.dsn) as old:
            old.execute("set transaction isolation level repeatable read")
            old.execute("select count(*) from pg_class")
            args = {"operation": operation, "seconds": seconds}
            done = run([Worker("put_take", kind.name, place, {"first": n * 10_000_000, **args}) for n in range(2)])
            old.rollback()
        stamps = [stamp for one in done for stamp in one.stamps]
        first = sum(stamp < edge for stamp in stamps) / edge
        last = sum(seconds - edge <= stamp < seconds for stamp in stamps) / edge
        series = [0] * round(seconds)
        for stamp in stamps:
            if stamp < len(series):
                series[int(stamp)] += 1
        return {"value": last / first, "first": first, "last": last, "series": series, **_but_value(rate(done))}


def _but_value(figures: Figures) -> Figures:
    return {"mean": figures.pop("value"), **figures}


def snapshot_transactional(bench: Bench, kind: type[Contender]) -> Figures:
    """W9, get."""
    return snapshot(bench, kind, "get")


def snapshot_leased(bench: Bench, kind: type[Contender]) -> Figures:
    """W9L, lease and complete."""
    return snapshot(bench, kind, "lease_complete")


def long_snapshot_transactional(bench: Bench, kind: type[Contender]) -> Figures:
    """W9X, get, for ten minutes."""
    return snapshot(bench, kind, "get", bench.options.long_snapshot_seconds)


def long_snapshot_leased(bench: Bench, kind: type[Contender]) -> Figures:
    """W9LX, lease and complete, for ten minutes."""
    return snapshot(bench, kind, "lease_complete", bench.options.long_snapshot_seconds)


def due(bench: Bench, kind: type[Contender]) -> Figures:
    """W11: many jobs come due at the same moment."""
    jobs = range(bench.options.due)
    with bench.fresh(kind) as place:
        # The moment must come after all are put, and consumers sleep: found by putting a few.
        client = kind(place)
        assert isinstance(client, PutsLater)
        client.connect()
        sample = range(1_000_000, 1_002_000)
        begin = time.monotonic()
        client.put_later([payload(n) for n in sample], 86_400)
        ahead = 5 + 1.5 * len(jobs) * (time.monotonic() - begin) / len(sample)
        moment = time.monotonic() + ahead
        for start in range(0, len(jobs), 10_000):
            numbers = jobs[start : start + 10_000]
            client.put_later([payload(n) for n in numbers], moment - time.monotonic())
        client.close()
        spare = moment - time.monotonic()
        worker = Worker("receive", kind.name, place, {"idle": max(3, spare + 3)})
        done = run([worker] * bench.options.processes)
        received = [stamp for one in done for stamp in one.received.values()]
        taken = [n for one in done for n in one.taken]
        if sorted(taken) != list(jobs):
            raise Wrong(f"{kind.name}: {len(taken)} jobs came, {len(set(taken))} of them different, of {len(jobs)}")
        return {
            "value": len(jobs) / (max(received) - moment),
            "first_ms": (min(received) - moment) * 1e3,
            "spare_seconds": spare,
        }


def large(bench: Bench, kind: type[Contender]) -> Figures:
    """W14: jobs of 1 MB, each leased twice. Bytes of data per second."""
    size = bench.options.large
    with bench.fresh(kind) as place:
        with bench.server.admin(place.dbname) as conn:
            worker = Worker("cycle", kind.name, place, {"size": size, "seconds": bench.options.seconds})
            before = conn.execute("select pg_current_wal_insert_lsn()").fetchone()
            done = run([worker])
            row = conn.execute("select pg_current_wal_insert_lsn() - %s::pg_lsn", before).fetchone()
        assert row is not None
        # Two more were put to get warm.
        return {
            **_but_value(rate(done)),
            "value": done[0].jobs * size / (done[0].end - done[0].begin),
            "wal_per_byte": float(row[0]) / size / (done[0].jobs + 2),
        }


def work(bench: Bench, kind: type[Contender]) -> Figures:
    """W15: empty handlers, by a worker against the loop that a user would write, in turns."""
    count = bench.options.bulk // TURNS
    jobs = range(2 * TURNS * count)
    rates: dict[str, list[float]] = {"loop": [], "work": []}
    done: list[Done] = []
    with bench.fresh(kind, f"{len(jobs)}", filled(jobs)) as place:
        for turn in range(TURNS):
            for name in list(rates)[:: 1 if turn % 2 == 0 else -1]:
                by = bench.options.threads if name == "work" else 100
                now = run([Worker("finish", kind.name, place, {"operation": name, "count": count, "by": by})])
                rates[name].append(rate(now)["value"])
                done += now
        check(kind, place, jobs, done)
    ratio = median(b / a for a, b in zip(rates["loop"], rates["work"], strict=True))
    return {"value": ratio, "rates": rates}


@dataclass(frozen=True)
class Workload:
    """One line of the table."""

    key: str
    title: str
    measure: Callable[[Bench, type[Contender]], Figures]
    # The operations that a contender needs.
    needs: tuple[type[Contender], ...] = ()
    unit: str = "jobs/s"
    # Those that take part, if not all that can.
    only: tuple[str, ...] = ()
    but: tuple[str, ...] = ()
    # Whether it is run only when it is named.
    on_demand: bool = False
    # The workload it is compared with.
    base: str = ""


OURS = ("ours", "ours-sql")

WORKLOADS = {
    workload.key: workload
    for workload in (
        Workload("W1", "put one at a time, one client", put),
        Workload("W2", "put one at a time, {processes} processes", put_by_many),
        Workload("W3", "put {bulk:,} in one call", put_bulk, (PutsMany,)),
        Workload("W4", "get one at a time, one consumer", get_one, (Gets,)),
        Workload("W4L", "lease one, complete one, one consumer", lease_one, (Leases,)),
        Workload("W5", "take one at a time, {processes} processes (who has no get: lease, complete)", take_by_many),
        Workload("W6", "get 100 at a time", get_batch, (GetsMany,)),
        Workload("W6L", "lease 100, complete 100", lease_batch, (LeasesMany,)),
        Workload("W7", "wake-up of a sleeping consumer, the median", wake, (Receives,), unit="ms"),
        Workload(
            "W8",
            "W4 with {many:,} waiting against {few:,}",
            depth,
            unit="ratio",
            but=("ours-sql", "hotqueue", "hotqueue-durable"),
        ),
        Workload(
            "W9",
            "put one, get one under an old snapshot, last {edge:g} s against first",
            snapshot_transactional,
            (Gets,),
            unit="ratio",
            but=("ours-sql", "hotqueue", "hotqueue-durable", "py-q4pg"),
        ),
        Workload(
            "W9L",
            "put one, lease and complete one under an old snapshot, last {edge:g} s against first",
            snapshot_leased,
            (Leases,),
            unit="ratio",
            but=("ours-sql", "pgqueuer"),
        ),
        Workload(
            "W9X",
            "W9 for {long_snapshot_seconds:g} s",
            long_snapshot_transactional,
            (Gets,),
            unit="ratio",
            only=("ours", "bare", "bare-from-last"),
            on_demand=True,
        ),
        Workload(
            "W9LX",
            "W9L for {long_snapshot_seconds:g} s",
            long_snapshot_leased,
            (Leases,),
            unit="ratio",
            only=("ours", "bare", "bare-from-last"),
            on_demand=True,
        ),
        Workload(
            "W10", "W4 beside {parked:,} scheduled or leased jobs, against none", parked, (PutsLater,), unit="ratio"
        ),
        Workload(
            "W11",
            "{due:,} jobs due at the same moment, {processes} consumers",
            due,
            (PutsLater, Receives),
            only=("ours",),
            base="W5",
        ),
        Workload(
            "W12",
            "W2 while {sleepers} consumers of other queues sleep",
            put_beside_strangers,
            (Sleeps,),
            only=("ours",),
            base="W2",
        ),
        Workload(
            "W12S",
            "W2 while {sleepers} consumers of the same queue sleep",
            put_beside_consumers,
            (Sleeps,),
            only=("ours",),
            base="W2",
        ),
        Workload(
            "W13",
            "W5 from {queues:,} queues, {set:,} in the set of each process",
            many_queues,
            (Chooses,),
            only=OURS,
            base="W5",
        ),
        Workload(
            "W13A",
            "W5 from {queues:,} queues, all in the set of each process",
            many_queues_each,
            (Chooses,),
            only=OURS,
            base="W5",
        ),
        Workload("W14", "1 MB per job: put, lease, error, lease, complete", large, (Cycles,), unit="bytes/s"),
        Workload(
            "W15",
            "empty handlers by a worker with {threads} threads, against a loop of lease 100, complete 100",
            work,
            (Works,),
            unit="ratio",
        ),
    )
}
