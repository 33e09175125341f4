"""Metrics for Prometheus: what is in the queues, as the database counts it, and how long a worker's jobs take.

Needs prometheus-client: pip install 'pgq-py[metrics]'.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from time import perf_counter

import psycopg
from prometheus_client import REGISTRY, CollectorRegistry, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector as BaseCollector

from ._async.job import AsyncJob
from ._sync.client import PQ
from ._sync.job import Job
from .calls import Metrics
from .errors import Error
from .failures import is_interruption
from .labels import task_of

log = logging.getLogger("pgq_py.metrics")

STATES = ("ready", "scheduled", "retrying", "leased", "dead")
GAUGES = {
    "oldest_ready_seconds": "For how long the job that has waited longest could have been taken.",
    "paused": "Whether the queue is paused.",
}
COUNTERS = {
    "put": "Jobs that were put.",
    "taken": "Jobs that were handed out, counted when their attempt ended.",
    "completed": "Leased jobs that were completed.",
    "failed": "Attempts that failed, or whose lease ran out.",
    "died": "Jobs that went to the dead.",
}
# From a millisecond to an hour.
BUCKETS = (0.001, 0.005, 0.025, 0.1, 0.5, 1, 5, 30, 120, 600, 3600)


class Collector(BaseCollector):
    """Gauges and counters of all queues that the role may observe: see `queue_metrics` in the reference.

        REGISTRY.register(Collector(pq))

    Each scrape is one call, in constant time for each queue. While the database can't be asked, the only metric is
    `pgq_py_up`, which is 0.

    Args:
        pq: whose queues. With an address or a pool, so that a scrape joins nobody's transaction.

    Raises:
        TypeError: an AsyncPQ, which can't be asked from the thread of a scrape.
    """

    def __init__(self, pq: PQ) -> None:
        if not isinstance(pq, PQ):
            raise TypeError(f"a scrape is synchronous: give the collector a PQ, not {type(pq).__name__}")
        self._pq = pq
        # Scrapes that wait for a database that does not answer wait here: with a connection each they would use up all.
        self._asking = threading.Lock()
        self._is_up = True

    def collect(self) -> Iterator[Metric]:
        """Ask the database."""
        with self._asking:
            queues = self._ask()
        yield GaugeMetricFamily("pgq_py_up", "Whether the database could be asked.", value=queues is not None)
        if queues is not None:
            yield from _families(queues)

    def describe(self) -> Iterator[Metric]:
        """The metrics without their values, so that registering does not ask the database."""
        yield GaugeMetricFamily("pgq_py_up", "Whether the database could be asked.")
        yield from _families([])

    def _ask(self) -> list[Metrics] | None:
        try:
            queues = self._pq.metrics()
        except (Error, psycopg.Error, OSError) as error:
            if self._is_up:
                log.warning("the queues can't be asked for their metrics: %s", error)
            self._is_up = False
            return None
        self._is_up = True
        return queues


def _families(queues: Sequence[Metrics]) -> Iterator[Metric]:
    jobs = GaugeMetricFamily("pgq_py_jobs", "Jobs in the queue, by their state.", labels=["queue", "state"])
    for queue in queues:
        for state in STATES:
            jobs.add_metric([queue.queue, state], getattr(queue, state))
    yield jobs
    for family, metrics in ((GaugeMetricFamily, GAUGES), (CounterMetricFamily, COUNTERS)):
        for name, text in metrics.items():
            metric = family(f"pgq_py_{name}", text, labels=["queue"])
            for queue in queues:
                metric.add_metric([queue.queue], getattr(queue, name))
            yield metric


class JobDurations:
    """A hook for workers: a histogram of how long their jobs take, `pgq_py_job_duration_seconds`.

        pq.hooks.append(JobDurations())

    For one worker: `Worker(..., hooks=[...])`.
    Its labels are the queue, the task (empty if the job is no call of a task that the PQ has) and the outcome:
    done, failed, or interrupted.

    Args:
        registry: where the histogram is registered.
        buckets: their upper bounds, in seconds.
    """

    def __init__(self, registry: CollectorRegistry = REGISTRY, buckets: Sequence[float] = BUCKETS) -> None:
        self._durations = Histogram(
            "pgq_py_job_duration_seconds",
            "How long jobs took.",
            ["queue", "task", "outcome"],
            registry=registry,
            buckets=buckets,
        )

    @contextmanager
    def __call__(self, job: Job | AsyncJob) -> Iterator[None]:
        """A context to do the job in."""
        begun, outcome = perf_counter(), "done"
        try:
            yield
        except BaseException as error:
            outcome = "interrupted" if is_interruption(error) else "failed"
            raise
        finally:
            self._durations.labels(job.queue, task_of(job), outcome).observe(perf_counter() - begun)
