"""HotQueue on Redis: as Redis comes, which may lose the last second's jobs, and durable."""

from __future__ import annotations

import json
from collections.abc import Sequence

from hotqueue import HotQueue

from ..contender import Data, Gets, OnJob, PutsMany, Receives


class Hot(Gets, PutsMany, Receives):
    """As its README, with JSON."""

    name = "hotqueue"
    about = '`HotQueue("bench").put(data)`, `.get()` on Redis as it comes: not durable'
    packages = ("hotqueue", "redis")
    needs = "redis"

    def install(self) -> None:
        """Nothing: a list is there when something is in it."""

    def connect(self) -> None:
        """Over a Unix socket, as the others."""
        self.queue = HotQueue("bench", serializer=json, unix_socket_path=self.place.redis)

    def close(self) -> None:
        """Nothing: the process ends."""

    def left(self) -> tuple[int, int]:
        """Read the list."""
        from redis import Redis

        numbers = [json.loads(text)["n"] for text in Redis(unix_socket_path=self.place.redis).lrange(self.key, 0, -1)]
        return len(numbers), sum(numbers)

    @property
    def key(self) -> str:
        """Of the list."""
        return "hotqueue:bench"

    def put(self, data: Data) -> None:
        """`queue.put`."""
        self.queue.put(data)

    def get(self) -> Data | None:
        """`queue.get`."""
        data: Data | None = self.queue.get()
        return data

    def put_many(self, items: Sequence[Data]) -> None:
        """`queue.put` of many."""
        self.queue.put(*items)

    def receive(self, on_job: OnJob) -> None:
        """`queue.get(block=True)`."""
        while on_job(self.queue.get(block=True, timeout=1)):
            pass


class HotDurable(Hot):
    """The same, but a put or get is on the disk when it returns."""

    name = "hotqueue-durable"
    about = "the same with `appendonly yes` and `appendfsync always`: durable"
    needs = "redis-durable"
