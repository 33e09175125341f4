"""Metrics for Prometheus: the collector, the command, the exporter's queries, a worker's histogram."""

from __future__ import annotations

import itertools
import logging
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic
from typing import Any
from urllib.request import urlopen

import psycopg
import pytest
import yaml
from checkout import ROOT
from conftest import Database
from prometheus_client import CollectorRegistry, generate_latest, start_http_server
from prometheus_client.parser import text_string_to_metric_families
from sql_sessions import value
from working import works
from worlds import PATIENCE, Background

from pgq_py import PQ, AsyncPQ
from pgq_py.calls import Metrics
from pgq_py.metrics import COUNTERS, GAUGES, STATES, Collector, JobDurations

QUERIES = ROOT / "examples" / "postgres_exporter" / "queries.yaml"
ALERTS = ROOT / "examples" / "prometheus" / "alerts.yaml"
# Of a name that no server has.
NOWHERE = "postgresql://localhost:1/nowhere"

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


@pytest.fixture
def pq(database: Database) -> Iterator[PQ]:
    with PQ(database.dsn) as pq:
        yield pq


@contextmanager
def served(registry: CollectorRegistry) -> Iterator[str]:
    """The address of a server for scrapes."""
    server, thread = start_http_server(0, "127.0.0.1", registry)
    try:
        yield f"http://127.0.0.1:{server.server_port}/metrics"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def collected(pq: PQ) -> CollectorRegistry:
    registry = CollectorRegistry()
    registry.register(Collector(pq))
    return registry


def scrape(address: str) -> Samples:
    with urlopen(address, timeout=20) as response:
        text = response.read().decode()
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def of(samples: Samples, name: str, **labels: str) -> float:
    return samples[name, frozenset(labels.items())]


def counters(samples: Samples, queue: str = "apples") -> tuple[float, ...]:
    return tuple(of(samples, f"pgq_py_{name}_total", queue=queue) for name in COUNTERS)


def jobs(samples: Samples, queue: str = "apples") -> dict[str, float]:
    return {state: of(samples, "pgq_py_jobs", queue=queue, state=state) for state in STATES}


def some_of_each(pq: PQ) -> None:
    """9 put, 2 got, 1 completed, 1 failed, 1 buried, 1 leased; 1 of those left is scheduled."""
    queue = pq["apples"]
    queue.put_many(range(8))
    queue.put(8, "1h")
    queue.get_many(2)
    done, failed, buried, _ = queue.lease_many(4)
    assert done.complete()
    assert failed.error("a worm", "1h")
    assert buried.error("rotten", bury=True)
    pq['of "pears"\\\n'].pause()


# The collector


def test_a_scrape_has_what_the_database_counts(pq: PQ) -> None:
    some_of_each(pq)
    with served(collected(pq)) as address:
        samples = scrape(address)
        assert of(samples, "pgq_py_up") == 1
        assert jobs(samples) == {"ready": 2, "scheduled": 1, "retrying": 1, "leased": 1, "dead": 1}
        assert counters(samples) == (9, 5, 1, 2, 1)
        assert 0 < of(samples, "pgq_py_oldest_ready_seconds", queue="apples") < 60
        assert of(samples, "pgq_py_paused", queue="apples") == 0
        assert of(samples, "pgq_py_paused", queue='of "pears"\\\n') == 1
        assert of(samples, "pgq_py_oldest_ready_seconds", queue='of "pears"\\\n') == 0
        # Only a drop sets the counters back.
        pq["apples"].clear()
        pq["apples"].delete_dead()
        pq.maintain()
        samples = scrape(address)
        assert counters(samples) == (9, 5, 1, 2, 1)
        assert set(jobs(samples).values()) == {0}
        pq["apples"].drop()
        assert ("pgq_py_put_total", frozenset({("queue", "apples")})) not in scrape(address)


def test_counters_grow_at_each_scrape_while_totals_are_folded(pq: PQ, database: Database) -> None:
    threads, rounds = 3, 200

    def work() -> None:
        with PQ(database.dsn) as mine:
            queue = mine["apples"]
            for _ in range(rounds):
                queue.put_many([1, 2, 3])
                queue.get(block=False)
                job = queue.lease(block=False)
                assert job is not None
                job.complete()
                mine.maintain()

    pq["apples"].create()
    workers = [threading.Thread(target=work) for _ in range(threads)]
    with served(collected(pq)) as address:
        scrapes = [counters(scrape(address))]
        for thread in workers:
            thread.start()
        while any(thread.is_alive() for thread in workers):
            scrapes.append(counters(scrape(address)))
        scrapes.append(counters(scrape(address)))
    runs = threads * rounds
    assert scrapes[0] == (0, 0, 0, 0, 0)
    assert scrapes[-1] == (3 * runs, 2 * runs, runs, 0, 0)
    assert len(set(scrapes)) > 5
    for before, after in itertools.pairwise(scrapes):
        assert all(a <= b for a, b in zip(before, after, strict=True))


def test_two_scrapers_agree_whenever_they_began(pq: PQ, database: Database) -> None:
    with served(collected(pq)) as one:
        some_of_each(pq)
        scrape(one)
        with PQ(database.dsn) as late, served(collected(late)) as other:
            assert counters(scrape(other)) == counters(scrape(one)) == (9, 5, 1, 2, 1)


def test_while_the_database_is_away_up_is_0_and_that_is_all(database: Database, caplog: Any) -> None:
    caplog.set_level(logging.WARNING, "pgq_py.metrics")
    with PQ(NOWHERE) as away, served(collected(away)) as address:
        for _ in range(3):
            assert list(scrape(address).items()) == [(("pgq_py_up", frozenset()), 0)]
    assert [record.name for record in caplog.records] == ["pgq_py.metrics"]


def test_it_is_up_again_when_the_database_is(database: Database, conn: psycopg.Connection[Any], roles: Any) -> None:
    roles.make("watcher")
    with PQ(f"{database.dsn} user=watcher") as pq, served(collected(pq)) as address:
        # Away, to a role without rights.
        assert of(scrape(address), "pgq_py_up") == 0
        conn.execute("select queue_grant_all('watcher', 'observe'), queue_put('apples', '1')")
        samples = scrape(address)
        assert of(samples, "pgq_py_up") == 1
        assert jobs(samples)["ready"] == 1


class Counting(PQ):
    """Counts how many ask at the same time."""

    asking = most = 0

    def metrics(self) -> list[Metrics]:
        self.asking += 1
        self.most = max(self.most, self.asking)
        try:
            return super().metrics()
        finally:
            self.asking -= 1


def test_scrapes_that_wait_for_the_database_have_one_connection(database: Database, conn: Any) -> None:
    with Counting(database.dsn) as pq, database.connect(autocommit=False) as blocker:
        blocker.execute("lock queue_tally in access exclusive mode")
        registry = collected(pq)
        scrapes = [Background(generate_latest, registry) for _ in range(5)]
        waiting = (
            "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()"
        )
        deadline = monotonic() + PATIENCE
        while not value(conn, waiting):
            assert monotonic() < deadline
        blocker.rollback()
        for scrape in scrapes:
            assert b"pgq_py_up 1.0" in scrape.result()
    assert pq.most == 1


def test_to_register_it_asks_no_database() -> None:
    with PQ(NOWHERE) as pq:
        registry = CollectorRegistry(auto_describe=True)
        registry.register(Collector(pq))
        with pytest.raises(ValueError, match="Duplicated"):
            registry.register(Collector(pq))


async def test_an_async_pq_is_refused(database: Database) -> None:
    async with AsyncPQ(database.dsn) as pq:
        with pytest.raises(TypeError, match="give the collector a PQ, not AsyncPQ"):
            Collector(pq)  # type: ignore[arg-type]


# The hook


def durations(registry: CollectorRegistry) -> dict[tuple[str, str, str], float]:
    (family,) = registry.collect()
    return {
        (sample.labels["queue"], sample.labels["task"], sample.labels["outcome"]): sample.value
        for sample in family.samples
        if sample.name == "pgq_py_job_duration_seconds_count"
    }


def test_durations_by_queue_task_and_outcome(pq: PQ) -> None:
    queue, registry = pq["apples"], CollectorRegistry()
    timed = JobDurations(registry)

    @queue.task(name="pick")
    def pick() -> None: ...

    for _ in range(2):
        pick()
    queue.put({"task": "made up by a producer"})
    queue.put({"task": ["pick"]})
    queue.put("no task")
    for job in queue.lease_many(5):
        with timed(job):
            pass
    pick()
    for error in (ValueError, KeyboardInterrupt):
        job = queue.lease(block=False)
        assert job is not None
        with pytest.raises(error), timed(job):
            raise error
        job.release()
    assert durations(registry) == {
        ("apples", "pick", "done"): 2,
        ("apples", "", "done"): 3,
        ("apples", "pick", "failed"): 1,
        ("apples", "pick", "interrupted"): 1,
    }
    with served(registry) as address:
        samples = scrape(address)
    labels = {"queue": "apples", "task": "pick", "outcome": "done"}
    assert of(samples, "pgq_py_job_duration_seconds_bucket", le="+Inf", **labels) == 2
    assert 0 < of(samples, "pgq_py_job_duration_seconds_sum", **labels) < 60


@pytest.mark.parametrize("kind", ["threads", "asyncio"])
def test_durations_of_a_worker(pq: PQ, database: Database, kind: str) -> None:
    registry = CollectorRegistry()
    pq["apples"].put_many(range(10))

    def handle(job: Any) -> None:
        if job.data == 7:
            raise ValueError

    with works(kind, database.dsn) as at_work:
        at_work.run(prepare=lambda mine: mine.hooks.append(JobDurations(registry)), handler=handle)
    assert durations(registry) == {("apples", "", "done"): 9, ("apples", "", "failed"): 1}


# The command


@contextmanager
def command(*args: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`pgq-py metrics`, and the address that it says it serves."""
    process = subprocess.Popen(
        [sys.executable, "-m", "pgq_py.cli", "metrics", "--port", "0", *args],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            assert process.stderr is not None
            yield process, process.stderr.readline().removeprefix("serving ").strip()
        finally:
            process.kill()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_command_serves_until_a_signal_and_exits_0(pq: PQ, database: Database, number: signal.Signals) -> None:
    some_of_each(pq)
    with command("--dsn", database.dsn) as (process, address):
        samples = scrape(address)
        assert of(samples, "pgq_py_up") == 1
        assert counters(samples) == (9, 5, 1, 2, 1)
        process.send_signal(number)
        assert process.wait(20) == 0


def test_the_command_says_at_once_what_a_user_can_put_right(database: Database, pq: PQ) -> None:
    with command("--dsn", NOWHERE) as (process, said):
        assert said.startswith("Error: ")
        assert process.wait(20) == 1
    with command("--dsn", database.dsn, "--schema", "elsewhere") as (process, said):
        assert "pgq-py migrate" in said
        assert process.wait(20) == 1
    with served(collected(pq)) as address:
        port = address.removesuffix("/metrics").rpartition(":")[2]
        with command("--dsn", database.dsn, "--port", port) as (process, said):
            assert said == f"Error: can't listen on 127.0.0.1, port {port}: Address already in use"
            assert process.wait(20) == 1


def test_without_prometheus_client_the_command_says_what_to_install() -> None:
    without = "import sys; sys.modules['prometheus_client'] = None; from pgq_py.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", without, "metrics", "--dsn", NOWHERE], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert "pip install 'pgq-py[metrics]'" in done.stderr


# postgres_exporter


def exported(conn: psycopg.Connection[Any]) -> tuple[dict[str, Any], Samples]:
    """What postgres_exporter makes of the queries: the declared metrics, and the samples."""
    declared: dict[str, Any] = {}
    samples: Samples = {}
    for name, entry in yaml.safe_load(QUERIES.read_text()).items():
        columns = {column: use for metric in entry["metrics"] for column, use in metric.items()}
        declared |= {f"{name}_{column}": use for column, use in columns.items() if use["usage"] != "LABEL"}
        cursor = conn.execute(entry["query"])
        assert cursor.description is not None
        assert [column.name for column in cursor.description] == list(columns)
        for row in cursor.fetchall():
            values = dict(zip(columns, row, strict=True))
            labels = {column: value for column, value in values.items() if columns[column]["usage"] == "LABEL"}
            assert all(isinstance(label, str) for label in labels.values())
            for column in values.keys() - labels.keys():
                assert type(values[column]) in (int, float)
                samples[f"{name}_{column}", frozenset(labels.items())] = values[column]
    return declared, samples


def test_the_exporters_queries_give_the_same_to_a_role_that_may_observe(
    pq: PQ, conn: psycopg.Connection[Any], roles: Any
) -> None:
    some_of_each(pq)
    pq["apples"].get_many(2)  # or the age would be another at each look
    roles.make("exporter")
    conn.execute("select queue_grant_all('exporter', 'observe')")
    declared, samples = exported(roles.connect("exporter"))
    with served(collected(pq)) as address:
        scraped = scrape(address)
    del scraped["pgq_py_up", frozenset()]
    assert samples == scraped
    assert {name: use["usage"] for name, use in declared.items()} == {
        **{f"pgq_py_{name}": "GAUGE" for name in ("jobs", *GAUGES)},
        **{f"pgq_py_{name}_total": "COUNTER" for name in COUNTERS},
    }
    described = {f.name + "_total" * (f.type == "counter"): f.documentation for f in Collector(pq).describe()}
    assert {name: use["description"] for name, use in declared.items()} | {
        "pgq_py_up": described["pgq_py_up"]
    } == described


# Alerts


def test_the_alerts_are_about_metrics_that_there_are(pq: PQ) -> None:
    some_of_each(pq)
    with served(collected(pq)) as address:
        samples = scrape(address)
    names, states = {name for name, _ in samples}, set(STATES)
    rules = [rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]
    used = {name for rule in rules for name in re.findall(r"\bpgq_py_\w+", rule["expr"])}
    assert used <= names
    assert used >= {"pgq_py_up", "pgq_py_jobs", "pgq_py_oldest_ready_seconds", "pgq_py_died_total"}
    assert {state for rule in rules for state in re.findall(r'state="(\w+)"', rule["expr"])} <= states
