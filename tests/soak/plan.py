"""What a run is made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

CAST = (
    *("put", "put", "put-sql"),
    *("take", "take", "listen", "listen", "batch", "take-sql"),
    *("lease", "lease-effect", "work", "work", "lease", "work-async"),
    *("get", "get", "consume"),
    *("tasks", "keep"),
)
SERVER_DECK = (
    "kill server",
    "kill server",
    "restart fast",
    "restart immediate",
    "crash",
    "freeze commits",
    "old snapshot",
    "lock timeout",
    "statement timeout",
    "disk full",
)
ACTOR_DECK = (
    *("kill worker", "kill worker", "kill worker", "kill worker"),
    "end worker",
    "stop worker",
    *("terminate backend", "terminate backend"),
    "cut link",
)


@dataclass(frozen=True)
class Plan:
    """A cast, the faults that befall it, and what is looked at in the end."""

    torture: float = 42
    """Seconds of faults."""
    probe: float = 5
    """Seconds after that in which jobs are put one at a time, in the calm."""
    cast: tuple[str, ...] = CAST
    server_deck: tuple[str, ...] = SERVER_DECK
    actor_deck: tuple[str, ...] = ACTOR_DECK
    pause: Mapping[str, float] = field(default_factory=lambda: {"server": 1.5, "actors": 1.0})
    """Seconds before a fault of each deck, on average."""
    prey: tuple[str, ...] = ()
    """The kinds of actors that are killed and stopped; all unless said otherwise."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """For the actors: see Part."""
    late: float = 2.0
    """How long a job may wait in the calm: the poll interval of the package's consumers."""

    @staticmethod
    def of(minutes: float) -> Plan:
        """All there is, for so long in all: what follows the faults takes some 15 seconds."""
        return Plan(torture=max(60 * minutes - 18, 30 * minutes), probe=min(30, 5 * minutes))
