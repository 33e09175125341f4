"""The torture of tests/soak: a minute of it, that its accounts find each kind of mistake, and planted ones."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from conftest import FOUND, ROOT, versions
from soak.accounts import FEW_WAITS, TAKEN, Accounts, State, Violation
from soak.actors import MAX_ATTEMPTS
from soak.ledger import FAILED, OK, UNKNOWN, Ledger, Operation, read_folder, read_lines
from soak.nemesis import FAULTS, schedule
from soak.plan import ACTOR_DECK, SERVER_DECK
from soak.plants import PLANTS
from soak.run import soak


@pytest.fixture
def newest(request: pytest.FixtureRequest) -> str:
    return max(versions(request.config), key=int)


@pytest.mark.timeout(240)
def test_a_minute_of_torture_loses_nothing_and_doubles_nothing(newest, tmp_path):
    figures = tmp_path / "figures.json"
    done = subprocess.run(
        [sys.executable, "-m", "soak", "--seed", "1", "--minutes", "1", "--pg", newest, "--json", str(figures)],
        cwd=ROOT / "tests",
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    found = json.loads(figures.read_text())
    assert found["violations"] == []
    # What can't be done here (namespaces and mounts need root, and a container that lets it) is said, not passed over.
    assert set(found["absent"]) <= {"cut link", "disk full"}
    assert set(found["faults"]) - {"stall"} == {*SERVER_DECK, *ACTOR_DECK} - set(found["absent"])
    assert all(f"absent: {kind}" in done.stderr for kind in found["absent"])
    assert all(counts["done"] > 100 for counts in found["modes"].values())
    assert found["modes"]["leased"]["done by workers"] > 50
    assert found["probes"] > 10


@pytest.mark.long
@pytest.mark.timeout(240)
@pytest.mark.parametrize("name", PLANTS)
def test_a_planted_mistake_is_found_and_its_schedule_without_it_passes(newest, name, capfd):
    plant = PLANTS[name]
    planted = soak(newest, FOUND[newest], 1, plant.plan, name)
    assert plant.rule in planted.rules, capfd.readouterr()
    assert planted.seconds < 120
    shutil.rmtree(planted.folder)  # kept, since something was found
    sound = soak(newest, FOUND[newest], 1, plant.plan)
    assert sound.violations == [], capfd.readouterr()


# The ledgers


def test_a_ledger_says_what_was_done_what_failed_and_what_nobody_knows(tmp_path):
    ledger = Ledger(tmp_path / "put 1#1.jsonl")
    with ledger.operation("put", queue="leased", keys=["a"]) as entry:
        entry.note(ids=[1])
    with pytest.raises(ValueError, match="no"), ledger.operation("put", queue="leased", keys=["b"]):
        raise ValueError("no")
    ledger.begin("put", queue="leased", keys=["c"])
    with (tmp_path / "put 1#1.jsonl").open("a") as file:
        file.write('{"at": 5, "op"')  # killed within the write
    operations = read_folder(tmp_path)
    assert [(operation["keys"], operation.out) for operation in operations] == [
        (["a"], OK),
        (["b"], FAILED),
        (["c"], UNKNOWN),
    ]
    assert operations[0]["ids"] == [1]
    assert operations[1]["error"] == "ValueError"
    assert operations[0].name == "put 1"


def test_a_seed_decides_the_faults():
    def first(seed: str) -> list[Any]:
        faults = schedule(seed, SERVER_DECK, 1.0)
        return [(kind, pause, dice.random()) for kind, pause, dice in (next(faults) for _ in range(30))]

    assert first("1") == first("1") != first("2")
    assert {kind for kind, _, _ in first("1")} == set(SERVER_DECK)
    assert set(FAULTS) == {*SERVER_DECK, *ACTOR_DECK}


# The accounts, on made-up ledgers

# The checksum of all their data.
DATA = 7


@dataclass
class Story:
    """What some processes wrote, and what the database holds."""

    lines: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    state: State = field(default_factory=State)
    ops: int = 0
    # How often each job counts as leased.
    attempts: Counter[int] = field(default_factory=Counter)

    def tell(self, actor: str, do: str, began: float, ended: float, out: str = OK, **result: Any) -> int:
        """An operation; an unknown one has no second line."""
        self.ops += 1
        intents = (
            "queue",
            "keys",
            "data",
            "priority",
            "dedupe",
            "sale",
            "of",
            "count",
            "delay",
            "block",
            "effect",
            "lease",
        )
        if do == "put":
            result = {"data": [DATA for _ in result["keys"]], "priority": 0, **result}
        if do in TAKEN and "jobs" in result:
            self.attempts.update(id for _, id, _ in result["jobs"] if do == "lease")
            result = {"as": [[DATA, 0, self.attempts[id]] for _, id, _ in result["jobs"]], **result}
        asked = {key: result.pop(key) for key in intents if key in result}
        if do not in ("lease", "get"):
            asked |= {key: result.pop(key) for key in ("jobs", "as") if key in result}
        for line in ({"at": began, "do": do, **asked}, {"at": ended, "out": out, **result}):
            if "do" in line or out != UNKNOWN:
                self.lines[actor].append(json.dumps({"op": self.ops, **line}) + "\n")
        return self.ops

    def put(self, key: str, queue: str, id: int, at: float = 0, out: str = OK, **more: Any) -> None:
        ids = {"ids": [id]} if out == OK else {}
        self.tell("put 1#1", "put", at, at + 0.1, out, queue=queue, keys=[key], **ids, **more)

    def effect(self, key: str, id: int, at: float = 1, out: str = OK, stored: bool = True, **more: Any) -> None:
        op = self.tell("take 1#1", "effect", at, at + 0.1, out, jobs=[["transactional", id, key]], **more)
        if stored:
            self.state.effects.append(("transactional", id, key, "take 1#1", op))

    def lease(
        self, key: str, id: int, at: float, actor: str = "lease 1#1", until: float | None = None, **more: Any
    ) -> int:
        jobs = [["leased", id, key]]
        return self.tell(actor, "lease", at, at + 0.1, queue="leased", jobs=jobs, until=until or at + 2, **more)

    def of_lease(
        self, do: str, of: int, key: str, id: int, at: float, actor: str = "lease 1#1", out: str = OK, **more: Any
    ) -> int:
        self.attempts[id] -= do == "release" and out == OK
        return self.tell(actor, do, at, at + 0.1, out, of=of, jobs=[["leased", id, key]], **more)

    def got(self, key: str, id: int, at: float = 1, **more: Any) -> None:
        self.tell("get 1#1", "get", at - 0.5, at, queue="fleeting", count=1, jobs=[["fleeting", id, key]], **more)

    def fault(self, kind: str, began: float, ended: float, **more: Any) -> None:
        scope = "actors" if "actors" in more else "server"
        self.tell("nemesis#1", "fault", began, ended, kind=kind, scope=scope, **more)

    def accounts(self) -> Accounts:
        operations: list[Operation] = []
        for actor, lines in self.lines.items():
            operations += read_lines(actor, lines)
        return Accounts(sorted(operations, key=lambda operation: operation.began), self.state)

    def violations(self) -> list[Violation]:
        return list(self.accounts().violations())


def good_day() -> Story:
    """One job of each mode, from its put to its end."""
    story = Story()
    story.put("t", "transactional", 1, sale=True)
    story.state.sales.add("t")
    story.effect("t", 1)
    story.put("l", "leased", 2)
    of = story.lease("l", 2, at=1)
    story.of_lease("work", of, "l", 2, at=1.2)
    story.of_lease("complete", of, "l", 2, at=1.4, done=True)
    story.put("f", "fleeting", 3)
    story.got("f", 3)
    for queue in ("transactional", "leased", "fleeting"):
        zero = dict.fromkeys(("ready", "scheduled", "retrying", "leased", "dead"), 0)
        story.state.totals[queue] = 0
        story.state.stats[queue] = {"put": 1, "completed": int(queue == "leased"), **zero}
    return story


def test_a_good_day_balances():
    assert good_day().violations() == []


def again(story: Story, at: float = 5, **more: Any) -> None:
    """The leased job is delivered, worked on and completed by another consumer."""
    of = story.lease("l", 2, at, "lease 2#1", **more)
    story.of_lease("work", of, "l", 2, at + 0.2, "lease 2#1")
    story.of_lease("complete", of, "l", 2, at + 0.4, "lease 2#1", done=True)


def without(story: Story, *kinds: str) -> None:
    """As if these operations on the leased job had not been."""
    lines = story.lines["lease 1#1"]
    dropped = {json.loads(line)["op"] for line in lines if json.loads(line).get("do") in kinds}
    story.lines["lease 1#1"] = [line for line in lines if json.loads(line)["op"] not in dropped]
    if "lease" in kinds:
        story.attempts.clear()


def lost_transactional(story: Story) -> None:
    story.put("a", "transactional", 10)
    story.state.stats["transactional"]["put"] = 2


def lost_leased(story: Story) -> None:
    without(story, "complete")
    story.state.stats["leased"]["completed"] = 0


def lost_fleeting(story: Story) -> None:
    del story.lines["get 1#1"]


def lost_after_the_only_open_get(story: Story) -> None:
    story.fault("kill worker", 1.5, 1.6, actors=["get 1#2"])
    story.tell("get 1#2", "get", 1, 2, UNKNOWN, queue="fleeting", count=1)
    story.put("a", "fleeting", 10, at=7)
    story.state.stats["fleeting"]["put"] = 2


def lost_after_a_completion_that_was_void(story: Story) -> None:
    """Nobody knows what came of it, but the next had the job, and gave it back."""
    without(story, "complete")
    story.of_lease("complete", _lease_of(story), "l", 2, 1.4, out=UNKNOWN)
    of = story.lease("l", 2, 5, "lease 2#1")
    story.of_lease("release", of, "l", 2, 5.2, "lease 2#1", done=True)
    story.state.stats["leased"]["completed"] = 0


def lost_without_the_effect_of_its_completion(story: Story) -> None:
    without(story, "complete")
    story.of_lease("complete", _lease_of(story), "l", 2, 1.4, out=UNKNOWN, block=True, effect=True)
    story.state.stats["leased"]["completed"] = 0


def lost_when_put_once_more_with_its_key(story: Story) -> None:
    story.put("a", "transactional", 10, dedupe="a", out=UNKNOWN)
    story.effect("a", 10, at=0.2)
    story.put("a", "transactional", 11, at=0.5, dedupe="a")
    story.state.stats["transactional"]["put"] = 3


def lost_when_somebody_had_seen_it(story: Story) -> None:
    story.put("a", "leased", 10, out=UNKNOWN)
    story.of_lease("release", story.lease("a", 10, 1), "a", 10, 1.2, done=True)
    story.state.stats["leased"]["put"] = 2


def lost_when_its_row_is_there(story: Story) -> None:
    story.put("a", "fleeting", 10, out=UNKNOWN, sale=True)
    story.state.sales.add("a")


def lost_by_the_server_while_a_get_is_open(story: Story) -> None:
    story.tell("get 1#2", "get", 1, 2, UNKNOWN, queue="fleeting", count=1)
    story.put("a", "fleeting", 10)
    story.state.stats["fleeting"]["put"] = 2
    story.state.totals["fleeting"] = 1


def never_put(story: Story) -> None:
    story.effect("nobody", 10)


def failed_but_there(story: Story) -> None:
    story.put("a", "transactional", 10, out=FAILED)
    story.effect("a", 10)
    story.state.stats["transactional"]["put"] = 2


def put_twice(story: Story) -> None:
    story.put("a", "transactional", 10, out=UNKNOWN)
    story.put("a", "transactional", 11, at=0.5)
    story.effect("a", 10)
    story.effect("a", 11)
    story.state.stats["transactional"]["put"] = 3


def put_twice_with_a_key_while_it_was_there(story: Story) -> None:
    story.put("a", "transactional", 10, dedupe="a", out=UNKNOWN)
    story.put("a", "transactional", 11, at=0.5, dedupe="a")
    story.effect("a", 10, at=2)
    story.effect("a", 11, at=2)
    story.state.stats["transactional"]["put"] = 3


def put_twice_with_a_key_while_it_was_leased(story: Story) -> None:
    story.put("a", "leased", 10, dedupe="a", out=UNKNOWN)
    story.put("a", "leased", 11, at=0.5, dedupe="a")
    for id, at in ((10, 0.2), (11, 1.5)):
        of = story.lease("a", id, at)
        story.of_lease("work", of, "a", id, at=at + 0.8)
        story.of_lease("complete", of, "a", id, at=at + 1, done=True)
    story.state.stats["leased"].update(put=3, completed=3)


def taken_with_other_data(story: Story) -> None:
    story.put("a", "transactional", 10)
    story.effect("a", 10, **{"as": [[DATA + 1, 0, 0]]})
    story.state.stats["transactional"]["put"] = 2


def leased_with_other_data_the_second_time(story: Story) -> None:
    without(story, "work", "complete")
    story.fault("kill worker", 1.5, 1.6, actors=["lease 1#1"])
    again(story, **{"as": [[DATA + 1, 0, 2]]})


def got_at_another_priority(story: Story) -> None:
    story.put("a", "fleeting", 10, priority=2)
    story.got("a", 10, **{"as": [[DATA, -2, 0]]})
    story.state.stats["fleeting"]["put"] = 2


def an_attempt_is_not_counted(story: Story) -> None:
    without(story, "work", "complete")
    story.of_lease("error", _lease_of(story), "l", 2, at=1.5, done=True)
    again(story, **{"as": [[DATA, 0, 1]]})


def an_attempt_is_not_counted_when_the_lease_runs_out(story: Story) -> None:
    without(story, "work", "complete")
    story.fault("kill worker", 1.5, 1.6, actors=["lease 1#1"])
    again(story, **{"as": [[DATA, 0, 1]]})


def a_release_is_counted(story: Story) -> None:
    without(story, "work", "complete")
    story.of_lease("release", _lease_of(story), "l", 2, at=1.5, done=True)
    again(story, at=2, **{"as": [[DATA, 0, 2]]})


def an_attempt_is_counted_that_was_none(story: Story) -> None:
    """Another lease of unknown outcome would not have run out yet."""
    story.put("a", "leased", 10, at=7)
    of = story.lease("a", 10, 8, **{"as": [[DATA, 0, 2]]})
    story.of_lease("work", of, "a", 10, 8.2)
    story.of_lease("complete", of, "a", 10, 8.4, done=True)
    story.state.stats["leased"].update(put=2, completed=2)


def fail_to_the_limit(story: Story) -> None:
    without(story, "work", "complete")
    of = _lease_of(story)
    for n in range(1, MAX_ATTEMPTS):
        story.of_lease("error", of, "l", 2, at=5 * n - 3.5, done=True)
        of = story.lease("l", 2, at=5 * n)
    story.of_lease("error", of, "l", 2, at=5 * MAX_ATTEMPTS - 3.5, done=True)


def attempts_beyond_the_limit(story: Story) -> None:
    fail_to_the_limit(story)
    again(story, at=100)


def tried_before_anybody_had_it(story: Story) -> None:
    story.put("a", "transactional", 10)
    story.effect("a", 10, **{"as": [[DATA, 0, 1]]})
    story.state.stats["transactional"]["put"] = 2


def early(story: Story) -> None:
    story.put("a", "transactional", 10, delay=1.5)
    story.effect("a", 10, at=1.4)
    story.state.stats["transactional"]["put"] = 2


def the_row_alone(story: Story) -> None:
    story.put("a", "transactional", 10, out=UNKNOWN, sale=True)
    story.state.sales.add("a")


def the_row_of_a_put_that_failed(story: Story) -> None:
    story.put("a", "transactional", 10, out=FAILED, sale=True)
    story.state.sales.add("a")


def the_job_alone(story: Story) -> None:
    story.state.sales.clear()


def the_job_that_is_gone_alone(story: Story) -> None:
    story.put("a", "fleeting", 10, sale=True)
    story.got("a", 10)
    story.state.stats["fleeting"]["put"] = 2


def effect_twice(story: Story) -> None:
    story.effect("t", 1, at=2)


def effect_of_a_failed_transaction(story: Story) -> None:
    story.put("a", "transactional", 10)
    story.effect("a", 10, out=FAILED)
    story.state.stats["transactional"]["put"] = 2


def effect_acknowledged_and_gone(story: Story) -> None:
    story.effect("t", 1, at=2, stored=False)


def completed_twice(story: Story) -> None:
    story.fault("kill worker", 1, 3, actors=["lease 1#1"])
    again(story)
    story.state.stats["leased"]["completed"] = 2


def taken_after_its_effect(story: Story) -> None:
    story.effect("t", 1, at=2, out=FAILED, stored=False)


def leased_after_its_completion(story: Story) -> None:
    """That the server was killed explains nothing: the completion was acknowledged."""
    story.fault("kill server", 1, 3)
    of = story.lease("l", 2, 5, "lease 2#1")
    story.of_lease("complete", of, "l", 2, 5.4, "lease 2#1", out=UNKNOWN)


def completed_while_another_has_it(story: Story) -> None:
    without(story, "work", "complete")
    story.fault("stop worker", 1.5, 4, actors=["lease 1#1"])
    story.lease("l", 2, 3.5, "lease 2#1")
    story.of_lease("work", 3, "l", 2, at=4)
    story.of_lease("complete", _lease_of(story), "l", 2, at=4.2, done=True)


def completed_after_the_lease(story: Story) -> None:
    without(story, "work", "complete")
    of = _lease_of(story)
    story.of_lease("work", of, "l", 2, at=1.5)
    story.of_lease("complete", of, "l", 2, at=4, done=True)


def completed_after_a_heartbeat_that_failed(story: Story) -> None:
    without(story, "work", "complete")
    of = _lease_of(story)
    story.of_lease("progress", of, "l", 2, at=2.5, out=FAILED, lease=2)
    story.of_lease("work", of, "l", 2, at=1.5)
    story.of_lease("complete", of, "l", 2, at=4, done=True)


def completed_in_a_block_after_the_lease(story: Story) -> None:
    without(story, "work", "complete")
    of = _lease_of(story)
    story.of_lease("work", of, "l", 2, at=4)
    story.tell("lease 1#1", "complete", 1.2, 4.3, of=of, jobs=[["leased", 2, "l"]])


def failed_after_the_lease(story: Story) -> None:
    without(story, "work", "complete")
    story.fault("stop worker", 1.5, 4, actors=["lease 1#1"])
    again(story, at=3.3)
    story.of_lease("error", _lease_of(story), "l", 2, at=4.2, done=True)


def extended_after_the_lease(story: Story) -> None:
    story.of_lease("progress", _lease_of(story), "l", 2, at=4, done=True, lease=2)


def _lease_of(story: Story) -> int:
    (op,) = (json.loads(line)["op"] for line in story.lines["lease 1#1"] if '"lease"' in line)
    return int(op)


def not_worked_on(story: Story) -> None:
    without(story, "work")


def taken_while_leased(story: Story) -> None:
    without(story, "work", "complete")
    story.fault("kill worker", 1.2, 1.3, actors=["lease 1#1"])
    again(story, at=1.5)


def taken_after_a_completion_that_failed(story: Story) -> None:
    without(story, "complete")
    story.of_lease("complete", _lease_of(story), "l", 2, 1.4, out=FAILED)
    again(story, at=1.6)


def taken_before_it_was_given_back(story: Story) -> None:
    without(story, "work", "complete")
    again(story, at=1.3)
    story.of_lease("error", _lease_of(story), "l", 2, 1.9, out=UNKNOWN)


def delivered_without_cause(story: Story) -> None:
    without(story, "work", "complete")
    again(story)


def delivered_after_another_actors_fault(story: Story) -> None:
    without(story, "work", "complete")
    story.fault("kill worker", 1.2, 1.3, actors=["lease 7#1"])
    again(story)


def delivered_after_an_old_fault(story: Story) -> None:
    without(story, "work", "complete")
    story.fault("kill server", 0.1, 0.5)
    again(story)


def delivered_after_another_actor_was_cut_off(story: Story) -> None:
    without(story, "work", "complete")
    story.tell("lease 7#1", "lease", 0.2, 1.5, FAILED, queue="leased", error="ConnectionLost")
    again(story)


def delivered_after_its_worker_had_been_cut_off_before(story: Story) -> None:
    without(story, "work", "complete")
    story.tell("lease 1#1", "lease", 0.1, 0.2, FAILED, queue="leased", error="ConnectionLost")
    again(story)


def delivered_after_its_worker_had_ended_in_time(story: Story) -> None:
    """It had to return what it had."""
    without(story, "work", "complete")
    story.fault("end worker", 1.2, 1.3, actors=[])
    again(story)


def got_twice(story: Story) -> None:
    story.got("f", 3, at=2)


def late(story: Story) -> None:
    probe(story, 0, 2.1)


def late_long_after_a_stall(story: Story) -> None:
    late(story)
    story.fault("stall", 9.5, 9.5, since=8, actors=["take 1#1"])


def unwoken(story: Story) -> None:
    for n in range(FEW_WAITS - 1):
        probe(story, n, 0.4, queue="transactional" if n else "fleeting")
    probe(story, FEW_WAITS, 0.01)


def unwoken_in_one_queue(story: Story) -> None:
    for n in range(FEW_WAITS):
        probe(story, 2 * n, 0.01 if n < FEW_WAITS // 2 else 0.4)
        probe(story, 2 * n + 1, 0.01, queue="fleeting")


def probe(story: Story, n: int, wait: float, queue: str = "transactional") -> None:
    """A job in the calm."""
    story.tell("probe#1", "put", 10 + n, 10.1 + n, queue=queue, keys=[f"p{n}"], ids=[20 + n])
    if queue == "transactional":
        story.effect(f"p{n}", 20 + n, at=10.1 + n + wait)
    else:
        story.got(f"p{n}", 20 + n, at=10.1 + n + wait)
    story.state.stats[queue]["put"] += 1


def undrained(story: Story) -> None:
    story.put("a", "leased", 10)
    story.state.jobs.append(("leased", 10, "a", "queue_dead"))
    story.state.stats["leased"].update(put=2, dead=1)
    story.state.totals["leased"] = 1


def leaked(story: Story) -> None:
    story.state.leaks.append("lock ExclusiveLock of 7 on advisory")


def damaged(story: Story) -> None:
    story.state.damages.append("queue_job_pkey: heap tuple lacks matching index tuple")


def put_is_counted_wrong(story: Story) -> None:
    story.state.stats["transactional"]["put"] = 2


def completed_is_counted_wrong(story: Story) -> None:
    story.state.stats["leased"]["completed"] = 0


def an_empty_queue_is_said_to_have_jobs(story: Story) -> None:
    story.state.stats["fleeting"]["ready"] = 1


WRONG: dict[Callable[[Story], None], str] = {
    lost_transactional: "lost",
    lost_leased: "lost",
    lost_fleeting: "lost",
    lost_after_the_only_open_get: "lost",
    lost_after_a_completion_that_was_void: "lost",
    lost_without_the_effect_of_its_completion: "lost",
    lost_when_put_once_more_with_its_key: "lost",
    lost_when_somebody_had_seen_it: "lost",
    lost_when_its_row_is_there: "lost",
    lost_by_the_server_while_a_get_is_open: "stats_disagree",
    never_put: "never_put",
    failed_but_there: "failed_but_there",
    put_twice: "put_twice",
    put_twice_with_a_key_while_it_was_there: "put_twice",
    put_twice_with_a_key_while_it_was_leased: "put_twice",
    taken_with_other_data: "altered",
    leased_with_other_data_the_second_time: "altered",
    got_at_another_priority: "altered",
    an_attempt_is_not_counted: "miscounted",
    an_attempt_is_not_counted_when_the_lease_runs_out: "miscounted",
    a_release_is_counted: "miscounted",
    an_attempt_is_counted_that_was_none: "miscounted",
    attempts_beyond_the_limit: "miscounted",
    tried_before_anybody_had_it: "miscounted",
    early: "early",
    the_row_alone: "torn",
    the_row_of_a_put_that_failed: "torn",
    the_job_alone: "torn",
    the_job_that_is_gone_alone: "torn",
    effect_twice: "effect_twice",
    effect_of_a_failed_transaction: "effect_against_ledger",
    effect_acknowledged_and_gone: "effect_against_ledger",
    completed_twice: "completed_twice",
    taken_after_its_effect: "taken_when_done",
    leased_after_its_completion: "taken_when_done",
    completed_while_another_has_it: "completed_outdated",
    completed_after_the_lease: "completed_outdated",
    completed_after_a_heartbeat_that_failed: "completed_outdated",
    completed_in_a_block_after_the_lease: "completed_outdated",
    failed_after_the_lease: "completed_outdated",
    extended_after_the_lease: "completed_outdated",
    not_worked_on: "not_worked_on",
    taken_while_leased: "taken_while_leased",
    taken_after_a_completion_that_failed: "taken_while_leased",
    taken_before_it_was_given_back: "taken_while_leased",
    delivered_without_cause: "delivered_without_cause",
    delivered_after_another_actors_fault: "delivered_without_cause",
    delivered_after_an_old_fault: "delivered_without_cause",
    delivered_after_another_actor_was_cut_off: "delivered_without_cause",
    delivered_after_its_worker_had_been_cut_off_before: "delivered_without_cause",
    delivered_after_its_worker_had_ended_in_time: "delivered_without_cause",
    got_twice: "got_twice",
    late: "late",
    late_long_after_a_stall: "late",
    unwoken: "unwoken",
    unwoken_in_one_queue: "unwoken",
    undrained: "undrained",
    leaked: "leaked",
    damaged: "damaged",
    put_is_counted_wrong: "stats_disagree",
    completed_is_counted_wrong: "stats_disagree",
    an_empty_queue_is_said_to_have_jobs: "stats_disagree",
}


@pytest.mark.parametrize("wrong", WRONG, ids=lambda wrong: wrong.__name__)
def test_the_accounts_find_what_is_wrong_and_nothing_else(wrong):
    story = good_day()
    wrong(story)
    assert [violation.rule for violation in story.violations()] == [WRONG[wrong]]


def test_each_rule_has_been_seen_violated():
    assert set(WRONG.values()) == set(Accounts.RULES)


def test_a_violation_shows_the_lines_about_it():
    story = good_day()
    completed_twice(story)
    (violation,) = story.violations()
    text = str(violation)
    assert "lease 1#1" in text
    assert "lease 2#1" in text
    assert text.count('"do": "complete"') == 2


# What is not wrong


@pytest.mark.parametrize("there", [True, False])
def test_a_put_of_unknown_outcome_is_there_or_not(there):
    story = good_day()
    story.put("a", "transactional", 10, out=UNKNOWN)
    if there:
        story.effect("a", 10)
        story.state.stats["transactional"]["put"] = 2
    assert story.violations() == []


def test_a_put_repeated_with_its_key_after_the_job_was_done_is_another_job():
    story = good_day()
    story.put("a", "transactional", 10, dedupe="a", out=UNKNOWN)
    story.effect("a", 10, at=0.2)
    story.put("a", "transactional", 11, at=0.5, dedupe="a")
    story.effect("a", 11, at=1)
    story.state.stats["transactional"]["put"] = 3
    accounts = story.accounts()
    assert list(accounts.violations()) == []
    assert accounts.figures["put again after it was done"] == 1


def test_a_get_of_unknown_outcome_explains_one_missing_job():
    story = good_day()
    story.tell("get 1#2", "get", 1, 2, UNKNOWN, queue="fleeting", count=1)
    story.put("a", "fleeting", 10)
    story.state.stats["fleeting"]["put"] = 2
    accounts = story.accounts()
    assert list(accounts.violations()) == []
    assert accounts.figures["lost with a get of unknown outcome"] == 1
    story.put("b", "fleeting", 11)
    story.state.stats["fleeting"]["put"] = 3
    assert [violation.rule for violation in story.violations()] == ["lost"]


@pytest.mark.parametrize(
    "why", ["its worker was killed", "the server went down", "the call failed", "unknown", "cut off", "asked"]
)
def test_an_extra_delivery_is_explained_by_what_happened_to_the_first(why):
    story = good_day()
    without(story, "work", "complete")
    of = _lease_of(story)
    if why == "its worker was killed":
        story.fault("kill worker", 1.5, 1.6, actors=["lease 1#1"])
    elif why == "the server went down":
        story.fault("kill server", 0.5, 1.6)
    elif why == "the call failed":
        story.of_lease("progress", of, "l", 2, 1.5, out=FAILED)
    elif why == "unknown":
        story.of_lease("complete", of, "l", 2, 1.5, out=UNKNOWN)
        story.state.stats["leased"]["completed"] = 1
    elif why == "cut off":
        story.tell("lease 1#1", "lease", 0.2, 1.5, FAILED, queue="leased", error="ConnectionLost")
    else:
        story.of_lease("release", of, "l", 2, 1.5, done=True)
    again(story)
    accounts = story.accounts()
    assert list(accounts.violations()) == []
    assert accounts.figures["extra deliveries"] == (why != "asked")


@pytest.mark.parametrize("out", [OK, UNKNOWN])
def test_a_heartbeat_may_have_kept_a_lease_whether_it_was_answered_or_not(out):
    story = good_day()
    without(story, "work", "complete")
    of = _lease_of(story)
    story.of_lease("progress", of, "l", 2, at=2.5, out=out, lease=2, **({"done": True} if out == OK else {}))
    story.of_lease("work", of, "l", 2, at=1.5)
    story.of_lease("complete", of, "l", 2, at=4, done=True)
    assert story.violations() == []


@pytest.mark.parametrize("attempts", [1, 2, 3, 4])
def test_a_lease_nobody_knows_of_and_a_release_of_unknown_outcome_leave_open_how_many_attempts_there_were(attempts):
    story = good_day()
    without(story, "work", "complete")
    story.of_lease("release", _lease_of(story), "l", 2, at=1.5, out=UNKNOWN)
    again(story, **{"as": [[DATA, 0, attempts]]})
    assert [violation.rule for violation in story.violations()] == ["miscounted"] * (attempts == 4)


def test_a_job_that_comes_back_from_the_dead_is_tried_as_if_it_were_new():
    story = good_day()
    fail_to_the_limit(story)
    again(story, at=100, **{"as": [[DATA, 0, 1]]})
    assert story.violations() == []


def test_a_rolled_back_transaction_may_count_as_an_attempt():
    story = good_day()
    story.put("a", "transactional", 10)
    story.effect("a", 10, out=FAILED, stored=False)
    story.effect("a", 10, at=2, **{"as": [[DATA, 0, 1]]})
    story.state.stats["transactional"]["put"] = 2
    assert story.violations() == []


@pytest.mark.parametrize("why", ["half of them were woken", "they are too few", "all stood still"])
def test_some_long_waits_in_the_calm_are_no_lost_wake_ups(why):
    story = good_day()
    for n in range(FEW_WAITS - (why == "they are too few")):
        probe(story, n, 0.01 if n <= FEW_WAITS // 2 and why == "half of them were woken" else 1)
    if why == "all stood still":
        story.fault("stall", 20, 20, since=9, actors=["take 1#1"])
    assert story.violations() == []


def test_a_lease_that_was_given_back_while_the_next_one_was_called_was_the_first():
    story = good_day()
    without(story, "work", "complete", "lease")
    of = story.lease("l", 2, at=1.0, actor="lease 1#1", until=3.02)
    story.of_lease("release", of, "l", 2, at=1.11, done=True)
    of = story.tell("lease 2#1", "lease", 0.99, 1.2, queue="leased", jobs=[["leased", 2, "l"]], until=3.0)
    story.of_lease("work", of, "l", 2, 1.3, "lease 2#1")
    story.of_lease("complete", of, "l", 2, 1.4, "lease 2#1", done=True)
    assert story.violations() == []


def test_a_lease_whose_answer_came_when_it_had_run_out_was_before_the_one_that_was_given_back_meanwhile():
    story = good_day()
    without(story, "work", "complete", "lease")
    story.fault("cut link", 0.9, 5.2, actors=["lease 1#1"])
    late = story.tell("lease 1#1", "lease", 0.9, 5.3, queue="leased", jobs=[["leased", 2, "l"]], until=3.0)
    of = story.lease("l", 2, at=3.0, actor="lease 2#1", until=5.02)
    story.of_lease("release", of, "l", 2, 3.11, "lease 2#1", done=True)
    again(story, at=3.3)
    story.of_lease("complete", late, "l", 2, 5.4, done=False)
    assert story.violations() == []


def test_who_was_stopped_before_it_could_write_of_its_lease_makes_no_completion_outdated():
    story = good_day()
    without(story, "work", "complete", "lease")
    story.fault("stop worker", 1.05, 3.5, actors=["lease 1#1"])
    story.tell("lease 1#1", "lease", 1, 3.5, queue="leased", jobs=[["leased", 2, "l"]], until=3.0)
    of = story.lease("l", 2, at=3.1, actor="lease 2#1")
    story.of_lease("work", of, "l", 2, 3.2, "lease 2#1")
    story.of_lease("complete", of, "l", 2, 3.8, "lease 2#1", done=True)
    assert story.violations() == []


@pytest.mark.parametrize("why", ["its backend was ended before", "no fault", "its transaction went on"])
def test_who_was_handed_a_job_by_a_server_that_then_ended_its_transaction_had_it_before(why):
    story = good_day()
    if why != "no fault":
        story.fault("terminate backend", 1.05, 1.09, of="take 2")
    error = {"error": "ConnectionLost"} if why != "its transaction went on" else {"error": "RolledBack"}
    story.tell("take 2#1", "effect", 1.12, 1.2, FAILED, jobs=[["transactional", 1, "t"]], **error)
    found = [violation.rule for violation in story.violations()]
    assert found == ([] if why == "its backend was ended before" else ["taken_when_done"])


def test_who_heard_late_of_a_job_that_another_has_done_meanwhile_had_it_before():
    """The link was cut when the answer was on its way, and the server killed, so that the job was back."""
    story = good_day()
    story.fault("kill server", 0.8, 0.9)
    story.fault("cut link", 0.7, 1.9, actors=["take 2#1"])
    story.tell("take 2#1", "effect", 2, 2.1, FAILED, jobs=[["transactional", 1, "t"]])
    assert story.violations() == []
