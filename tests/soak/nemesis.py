"""What goes wrong, and when. The seed decides the order, the times between and how long each lasts.

Two sequences run side by side: one of faults of the server, one of faults of the actors and their connections. Each
goes through a deck of faults, shuffled anew each time. All are written into a ledger with their begin and end.
"""

from __future__ import annotations

import os
import random
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from time import monotonic, sleep
from typing import Any

import psycopg

from .actors import LEASE, PATIENCE
from .ledger import Ledger
from .plan import Plan
from .stage import Process, Stage, wait_until


class Nemesis:
    """The faults of one run."""

    def __init__(self, stage: Stage, seed: int, plan: Plan) -> None:
        self.stage = stage
        self.seed = seed
        self.plan = plan
        self.decks = {
            "server": tuple(kind for kind in plan.server_deck if kind not in stage.absent),
            "actors": tuple(kind for kind in plan.actor_deck if kind not in stage.absent),
        }
        self.ledger = Ledger(stage.ledgers / "nemesis#1.jsonl")
        self.counts: dict[str, int] = {}
        self.errors: list[BaseException] = []
        self._over = threading.Event()
        self._lock = threading.Lock()

    def run(self, progress: Callable[[], None]) -> None:
        """All faults; healed when it returns."""
        until = monotonic() + self.plan.torture
        threads = []
        for name, deck in self.decks.items():
            if deck:
                threads.append(threading.Thread(target=self._guard, args=(name, deck)))
        for thread in threads:
            thread.start()
        while (
            not self._over.wait(max(0, min(max(10, self.plan.torture / 20), until - monotonic())))
            and monotonic() < until
        ):
            progress()
        self._over.set()
        for thread in threads:
            thread.join()
        for error in self.errors:
            raise error

    def told(self) -> str:
        """How many so far."""
        return ", ".join(f"{count} {kind}" for kind, count in sorted(self.counts.items())) or "no faults"

    def _guard(self, name: str, deck: tuple[str, ...]) -> None:
        try:
            for kind, pause, dice in schedule(f"{self.seed} {name}", deck, self.plan.pause[name]):
                if self._over.wait(pause):
                    return
                self.strike(kind, dice)
        except BaseException as error:
            self.errors.append(error)
            self._over.set()

    def strike(self, kind: str, dice: random.Random) -> None:
        """One fault, from its beginning to its end."""
        with self._lock:
            self.counts[kind] = self.counts.get(kind, 0) + 1
        with self.ledger.operation("fault", kind=kind, scope=SCOPE.get(kind, "server")) as entry:
            FAULTS[kind](self, dice, entry.result)

    # The server

    def kill_server(self, dice: random.Random, noted: dict[str, Any]) -> None:
        self.stage.place.kill_all()
        sleep(0.5 * dice.random())
        self.stage.place.start()

    def restart_fast(self, dice: random.Random, noted: dict[str, Any]) -> None:
        self.stage.place.stop("fast")
        self.stage.place.start()

    def restart_immediate(self, dice: random.Random, noted: dict[str, Any]) -> None:
        self.stage.place.stop("immediate")
        self.stage.place.start()

    def crash(self, dice: random.Random, noted: dict[str, Any]) -> None:
        """A backend dies of -9: the postmaster ends all others, and recovers."""
        with self.stage.place.admin() as conn:
            backends = self.backends(conn)
        if backends:
            pid, noted["of"] = dice.choice(backends)
            if pid in self.stage.place.processes():
                os.kill(pid, signal.SIGKILL)
            sleep(0.1)
            wait_until(self.stage.place.is_up, "the server is back after a crash", 30)

    def freeze_commits(self, dice: random.Random, noted: dict[str, Any]) -> None:
        """Commits wait for a standby that does not exist. Whoever's wait is cut short has committed here."""
        with self.stage.place.admin() as conn:
            try:
                _set(conn, "synchronous_standby_names", "nobody")
                sleep(0.5 + 0.5 * dice.random())
                if dice.random() < 0.7:
                    waiting = conn.execute(
                        "select pg_terminate_backend(pid), application_name from pg_stat_activity "
                        "where wait_event = 'SyncRep'"
                    )
                    noted["terminated"] = [name for _, name in waiting]
                    sleep(0.2)
            finally:
                _set(conn, "synchronous_standby_names", None)

    def old_snapshot(self, dice: random.Random, noted: dict[str, Any]) -> None:
        with self.stage.place.admin() as conn:
            conn.execute("begin isolation level repeatable read")
            conn.execute("select count(*) from queue_job")
            sleep(1 + 4 * dice.random())
            conn.execute("rollback")

    def lock_timeout(self, dice: random.Random, noted: dict[str, Any]) -> None:
        with self.stage.place.admin() as conn:
            conn.execute("begin")
            conn.execute(f"lock table {dice.choice(['queue_job', 'queue_tally', 'effect'])}")
            sleep(0.5 + dice.random())
            conn.execute("rollback")

    def statement_timeout(self, dice: random.Random, noted: dict[str, Any]) -> None:
        """So short that it ends statements anywhere, not only where they wait."""
        with self.stage.place.admin() as conn:
            try:
                _set(conn, "statement_timeout", f"{dice.randrange(1, 6)}ms")
                sleep(0.5 + dice.random())
            finally:
                _set(conn, "statement_timeout", None)

    def disk_full(self, dice: random.Random, noted: dict[str, Any]) -> None:
        assert self.stage.disk is not None
        self.stage.disk.fill()
        try:
            sleep(1.5 + dice.random())
        finally:
            self.stage.disk.free()

    # The actors

    def pick(self, dice: random.Random) -> Process:
        prey = self.plan.prey
        return dice.choice([actor for actor in self.stage.actors if not prey or actor.part.kind in prey])

    def kill_worker(self, dice: random.Random, noted: dict[str, Any]) -> None:
        actor = self.pick(dice)
        noted["actors"] = [actor.name]
        actor.kill()
        actor.start()

    def end_worker(self, dice: random.Random, noted: dict[str, Any]) -> None:
        """SIGTERM, as at each deploy. It explains nothing, but where whoever took too long was killed."""
        actor = self.pick(dice)
        noted["actors"] = []
        if not actor.end_within(PATIENCE + 1):
            noted["actors"] = [actor.name]
        actor.start()

    def stop_worker(self, dice: random.Random, noted: dict[str, Any]) -> None:
        actor = self.pick(dice)
        noted["actors"] = [actor.name]
        actor.signal(signal.SIGSTOP)
        sleep(LEASE * (1.1 + 0.5 * dice.random()))
        actor.signal(signal.SIGCONT)

    def backends(self, conn: psycopg.Connection[Any]) -> list[tuple[int, str]]:
        return conn.execute(
            "select pid, application_name from pg_stat_activity "
            "where backend_type = 'client backend' and application_name <> 'nemesis' order by application_name"
        ).fetchall()

    def terminate_backend(self, dice: random.Random, noted: dict[str, Any]) -> None:
        # It may be down at this moment.
        with suppress(psycopg.OperationalError), self.stage.place.admin() as conn:
            if backends := self.backends(conn):
                pid, noted["of"] = dice.choice(backends)
                conn.execute("select pg_terminate_backend(%s)", [pid])

    def cut_link(self, dice: random.Random, noted: dict[str, Any]) -> None:
        """Of all who live behind it; in both directions or in one."""
        link = self.stage.link
        assert link is not None
        requests, answers = dice.choice([(True, True), (True, False), (False, True)])
        noted["actors"] = [actor.name for actor in self.stage.actors if self.stage.is_behind(actor)]
        link.cut(requests, answers)
        try:
            sleep(0.5 + 4.5 * dice.random())
        finally:
            link.join()


def _set(conn: psycopg.Connection[Any], name: str, value: str | None) -> None:
    conn.execute(f"alter system reset {name}" if value is None else f"alter system set {name} = '{value}'")
    conn.execute("select pg_reload_conf()")


FAULTS: dict[str, Any] = {
    "kill server": Nemesis.kill_server,
    "restart fast": Nemesis.restart_fast,
    "restart immediate": Nemesis.restart_immediate,
    "crash": Nemesis.crash,
    "freeze commits": Nemesis.freeze_commits,
    "old snapshot": Nemesis.old_snapshot,
    "lock timeout": Nemesis.lock_timeout,
    "statement timeout": Nemesis.statement_timeout,
    "disk full": Nemesis.disk_full,
    "kill worker": Nemesis.kill_worker,
    "end worker": Nemesis.end_worker,
    "stop worker": Nemesis.stop_worker,
    "terminate backend": Nemesis.terminate_backend,
    "cut link": Nemesis.cut_link,
}
# Whose lost leases a fault explains: of those it names, or of everybody; an old snapshot, nobody's.
SCOPE = {
    "kill worker": "actors",
    "end worker": "actors",
    "stop worker": "actors",
    "terminate backend": "actors",
    "cut link": "actors",
    "old snapshot": "nobody",
}


def schedule(seed: str, deck: tuple[str, ...], pause: float) -> Iterator[tuple[str, float, random.Random]]:
    """Without end: a fault, the pause before it, and the dice that decide the rest of it."""
    dice = random.Random(seed)
    while True:
        for kind in dice.sample(deck, len(deck)):
            yield kind, 2 * pause * dice.random(), random.Random(dice.random())
