"""Mistakes to plant, each to be found by the accounts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import psycopg


@dataclass(frozen=True)
class Plant:
    """A mistake. Those without statements are in what the actors do (actors.py)."""

    statements: tuple[str, ...] = ()

    def install(self, conn: psycopg.Connection[Any]) -> None:
        for statement in self.statements:
            conn.execute(statement)


PLANTS: dict[str, Plant] = {}
