"""One run: build, torture, heal, drain, probe, account; and what it prints."""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import psycopg

from pgq_py import PQ

from .accounts import Accounts, State, Violation
from .actors import LOOKERS, PRODUCERS, QUEUES
from .ledger import read_folder
from .nemesis import Nemesis
from .plan import Plan
from .plants import PLANTS
from .stage import Stage, stage, wait_until

TABLES = ("queue_job", "queue_dead", "queue_setting", "queue_tally", "queue_total")


@dataclass
class Result:
    version: str
    seed: int
    seconds: float
    plant: str | None
    violations: list[Violation]
    summary: dict[str, Any]
    absent: dict[str, str]
    folder: Path

    @property
    def rules(self) -> set[str]:
        return {violation.rule for violation in self.violations}

    def as_json(self) -> dict[str, Any]:
        return {
            "version": self.version,
            "seed": self.seed,
            "seconds": round(self.seconds, 1),
            "plant": self.plant,
            "violations": [str(violation) for violation in self.violations],
            "absent": self.absent,
            **self.summary,
        }


def say(*words: Any) -> None:
    print(*words, flush=True)


def soak(version: str, programs: Path, seed: int, plan: Plan, plant: str | None = None) -> Result:
    """Run it, and keep the folder of the ledgers only where something was found."""
    began = monotonic()
    folder = Path(tempfile.mkdtemp(prefix="soak-"))
    say(f"seed {seed}, PostgreSQL {version}, ledgers in {folder}")
    with stage(version, programs, folder) as made:
        for kind, why in made.absent.items():
            print(f"absent: {kind} ({why})", file=sys.stderr, flush=True)
        try:
            state = play(made, seed, plan, plant)
        finally:
            (folder / "server.log").write_text(made.place.log())
        absent = made.absent
    accounts = Accounts(read_folder(folder), state, plan.late)
    violations = list(accounts.violations())
    result = Result(version, seed, monotonic() - began, plant, violations, accounts.summary(), absent, folder)
    (folder / "state.json").write_text(json.dumps(asdict(state), default=str))
    (folder / "violations").write_text("\n".join(map(str, violations)) + "\n")
    if not violations:
        shutil.rmtree(folder)
    return result


def play(made: Stage, seed: int, plan: Plan, plant: str | None) -> State:
    """From the first put to the last look into the database."""
    if plant is not None:
        with made.place.admin() as conn:
            PLANTS[plant].install(conn)
    options = {**plan.options, "plant": plant}
    for number, kind in enumerate(plan.cast):
        made.add(kind, f"{kind} {number}", seed, **options)
    made.wait_for_all()
    nemesis = Nemesis(made, seed, plan)
    say(f"torture for {plan.torture:.0f} s: {len(made.actors)} actors")
    nemesis.run(progress=lambda: say(f"    {progress(made)}; {nemesis.told()}"))
    say(f"healed: {nemesis.told()}")
    made.check()
    made.end(made.of(*PRODUCERS, *LOOKERS))
    with PQ(made.place.dsn("soak")) as pq:
        say("drain:", drain(pq))
    prober = made.add("probe", "probe", seed, **options)
    made.wait_for_all()
    say(f"probe for {plan.probe:.0f} s")
    sleep(plan.probe)
    made.end([prober], 40)
    with PQ(made.place.dsn("soak")) as pq:
        drain(pq)
    made.end(list(made.actors))
    say("account")
    return look(made)


def progress(made: Stage) -> str:
    try:
        with made.place.admin() as conn:
            (effects,) = conn.execute("select count(*) from effect").fetchone() or [0]
            (jobs,) = conn.execute("select count(*) from queue_job").fetchone() or [0]
    except psycopg.OperationalError:
        return "the server is down"
    return f"{effects} effects, {jobs} jobs in the queues"


def drain(pq: PQ, seconds: float = 60) -> str:
    """Until the consumers have taken all there is, the dead put back."""
    began = told = monotonic()
    while monotonic() < began + seconds:
        left = {}
        for name in QUEUES:
            pq[name].redrive()
            left[name] = pq[name].count(scheduled=True)
        if not any(left.values()):
            return f"done in {monotonic() - began:.1f} s"
        if monotonic() > told + 5:
            told = monotonic()
            say(f"    {left}")
        sleep(0.05)
    return f"left after {seconds:.0f} s: {left}"


def look(made: Stage) -> State:
    """When all have left: what is there, and what should not be."""
    state = State()
    with made.place.admin() as conn:
        state.effects = conn.execute("select queue, id, key, actor, op from effect").fetchall()
        state.sales = {key for (key,) in conn.execute("select key from sale")}
        for table in ("queue_job", "queue_dead"):
            state.jobs += conn.execute(f"select queue, id, data->>'key', '{table}' from {table}").fetchall()
        with PQ(conn) as pq:
            for stats in pq.stats():
                state.stats[stats.queue] = asdict(stats)
        state.totals = dict(conn.execute(TOTALS).fetchall())
        state.leaks = list(leaks(conn))
        state.damages = list(damages(conn))
    return state


# The queue's own books, written in the transactions that put and end jobs; most rows have most columns null.
# Without `moved`: from the queue to the dead and back, and by that queue_maintain corrects what does not fit.
TOTALS = """
    select t.queue, sum(coalesce(t.put, 0) - coalesce(t.taken, 0) + coalesce(t.failed, 0))::int
    from (
        select queue, put, taken, failed from queue_total
        union all
        select queue, put, taken, failed from queue_tally
    ) t
    group by t.queue
"""
OPEN = """
    select 'backend', format('%s %s: %s', pid, application_name, state) from pg_stat_activity
    where backend_type = 'client backend' and pid <> pg_backend_pid()
    union all
    select 'lock', format('%s of %s on %s', mode, pid, coalesce(relation::regclass::text, locktype)) from pg_locks
    where pid <> pg_backend_pid()
        and pid not in (select pid from pg_stat_activity where backend_type <> 'client backend')
    union all
    select 'prepared transaction', gid from pg_prepared_xacts
"""


def leaks(conn: psycopg.Connection[Any]) -> Iterator[str]:
    """Backends and locks that outlive those who had them. The server needs some seconds to notice a cut link."""
    found: list[Any] = []

    def is_clean() -> bool:
        nonlocal found
        found = conn.execute(OPEN).fetchall()
        return not found

    try:
        wait_until(is_clean, "all backends are gone", 10)
    except TimeoutError:
        for kind, what in found:
            yield f"{kind} {what}"


def damages(conn: psycopg.Connection[Any]) -> Iterator[str]:
    """What amcheck finds in our tables and indexes."""
    for table in TABLES:
        for row in conn.execute("select * from verify_heapam(%s)", [table]):
            yield f"{table}: {row}"
        indexes = conn.execute("select indexrelid::regclass::text from pg_index where indrelid = %s::regclass", [table])
        for (index,) in indexes.fetchall():
            try:
                conn.execute("select bt_index_parent_check(%s, heapallindexed => true, rootdescend => true)", [index])
            except psycopg.Error as error:
                yield f"{index}: {error}"


def report(result: Result) -> None:
    """The table at the end."""
    summary = result.summary
    say(f"\n{'mode':15}{'put ok':>10}{'failed':>10}{'unknown':>10}{'taken':>10}{'done':>10}")
    for mode, counts in summary["modes"].items():
        columns = ("put ok", "put failed", "put unknown", "taken", "done")
        say(f"{mode:15}" + "".join(f"{counts.get(column, 0):>10,}" for column in columns))
    say(f"{'by workers':55}{summary['modes']['leased']['done by workers']:>10,}")
    for title in ("faults", "unknown outcomes", "explained", "errors"):
        say(f"\n{title}")
        for name, count in sorted(summary[title].items(), key=lambda item: -item[1]):
            say(f"    {count:>8,}  {name}")
    for kind, why in result.absent.items():
        say(f"      absent  {kind} ({why})")
    waits = f"longest of {summary['probes']} waits in the calm: {summary['longest wait']:.3f} s"
    say(f"\n{waits}, median {summary['median wait']:.4f} s")
    for violation in result.violations[:20]:
        say(f"\n{violation}")
    if result.violations:
        say(f"\n{len(result.violations)} violations of {', '.join(sorted(result.rules))}: all in {result.folder}")
    else:
        say(f"nothing lost, nothing twice, all explained; {result.seconds:.0f} s")


def write_json(result: Result, path: Path) -> None:
    path.write_text(json.dumps(result.as_json(), indent=2) + "\n")
