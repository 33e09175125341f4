"""Waiting where the isolation level lets nothing new be seen."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from pgq_py import PQ, errors


@pytest.mark.parametrize("level", ["REPEATABLE_READ", "SERIALIZABLE"])
def test_a_get_does_not_wait_where_it_would_never_see_a_job(database: Any, level: str) -> None:
    conn = database.connect(autocommit=False)
    conn.isolation_level = psycopg.IsolationLevel[level]
    queue = PQ(conn)["apples"]
    with pytest.raises(errors.CannotWait, match="block=False"), queue:
        queue.get(timeout=60)
    with queue:
        assert queue.get(block=False) is None


def test_a_get_waits_in_a_transaction_at_read_committed(database: Any) -> None:
    queue = PQ(database.connect(autocommit=False))["apples"]
    with queue:
        assert queue.get(timeout=0.05) is None


def test_membership_is_refused_and_takes_nothing(database: Any) -> None:
    queue = PQ(database.connect())["apples"]
    queue.put(1)
    with pytest.raises(TypeError):
        assert 2 in queue
    assert len(queue) == 1


def test_text_for_a_number_is_not_called_bad_data(database: Any) -> None:
    queue: Any = PQ(database.connect())["apples"]
    with pytest.raises(errors.Error, match="a number") as caught:
        queue.cancel("secret")
    assert "secret" not in str(caught.value)
