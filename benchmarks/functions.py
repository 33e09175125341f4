"""The SQL functions alone, without Python: rates by pgbench, WAL, round trips, and what each guard costs."""

from __future__ import annotations

import json
import random
import re
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import psycopg
from psycopg import sql

from .contender import Contender, Gets, Leases, Place, find, payload
from .workers import WARM
from .workloads import Bench, Figures

_DATA = json.dumps(payload(1))

# What pgbench runs, for each operation: on our functions, and the bare statements that do as much.
_LEASE = "select id, receipt from queue_lease('bench') \\gset\n"
_BARE_LEASE = """
    update bare_job set lease_until = now() + interval '5 minutes'
    where id = (
        select id from bare_job where lease_until is null order by id limit 1 for update skip locked
    ) returning id \\gset
"""
_COMPLETE = "select queue_complete('bench', :id, :receipt);\n"
_BARE_COMPLETE = "delete from bare_job where id = :id;\n"
_BARE_EXTEND = "update bare_job set lease_until = now() + interval '5 minutes' where id = :id;\n"
_BARE_RELEASE = "update bare_job set lease_until = null where id = :id;\n"
SCRIPTS = {
    "put": (
        f"select queue_put('bench', '{_DATA}');",
        f"insert into bare_job (data) values ('{_DATA}') returning id;",
    ),
    "get": (
        "select id, data from queue_get('bench');",
        "delete from bare_job where id = (select id from bare_job order by id limit 1 for update skip locked) "
        "returning id, data;",
    ),
    "lease, complete": (_LEASE + _COMPLETE, _BARE_LEASE + _BARE_COMPLETE),
    "lease, progress, complete": (
        _LEASE + "select queue_progress('bench', :id, :receipt, 50);\n" + _COMPLETE,
        _BARE_LEASE + _BARE_EXTEND + _BARE_COMPLETE,
    ),
    "lease, release": (
        _LEASE + "select queue_release('bench', :id, :receipt);\n",
        _BARE_LEASE + _BARE_RELEASE,
    ),
    "lease, error": (
        _LEASE + "select queue_error('bench', :id, :receipt, 'not now', '0');\n",
        _BARE_LEASE + _BARE_RELEASE,
    ),
}


def pgbench(bench: Bench, dbname: str, script: str, clients: int, seconds: float) -> float:
    """Runs of the script per second. It knows whole seconds only: of less it does a few hundred runs."""
    length = ("-T", str(round(seconds))) if seconds >= 1 else ("-t", "300")
    with tempfile.NamedTemporaryFile("w", suffix=".sql") as file:
        file.write(script)
        file.flush()
        done = subprocess.run(
            [
                *(bench.server.programs / "pgbench", "-n", "-M", "prepared", "-f", file.name),
                *("-c", str(clients), "-j", str(min(clients, 2)), *length),
                *("-h", bench.server.folder, "-U", "postgres", dbname),
            ],
            capture_output=True,
            text=True,
        )
    found = re.search(r"tps = ([\d.]+)", done.stdout)
    if done.returncode or found is None:
        raise RuntimeError(f"pgbench: {done.stderr}")
    return float(found[1])


def rates(bench: Bench, kinds: Sequence[type[Contender]]) -> dict[str, Any]:
    """Runs per second of each script, by 1 client and by 8, durable."""
    seconds = bench.options.function_seconds
    deep = range(round(40_000 * max(1, seconds)))
    results: dict[str, Any] = {}
    for name, scripts in SCRIPTS.items():
        for clients in (1, 8):
            rounds: dict[str, list[float]] = {"ours": [], "bare": []}
            for _ in range(bench.options.rounds):
                for kind_name, script in zip(rounds, scripts, strict=True):
                    kind = find(kind_name)
                    with bench.fresh(kind, "deep", lambda client: client.fill(deep)) as place:
                        rounds[kind_name].append(pgbench(bench, place.dbname, script, clients, seconds))
                        if kind(place).left()[0] == 0:
                            raise RuntimeError(f"{name} emptied the queue of {len(deep)} jobs: its rate is of nothing")
            results[f"{name}, {clients} client{'s' if clients > 1 else ''}"] = rounds
            print(f"  {name:28}{clients} " + _line(rounds), flush=True)
    bench.forget()
    return results


def _line(rounds: dict[str, list[float]]) -> str:
    ours, bare = (median(figures) for figures in rounds.values())
    return f"{ours:,.0f} {bare:,.0f} {ours / bare:.2f}"


# WAL, by operation

_WAL = """
    select count(*),
        sum(record_length - fpi_length),
        count(*) filter (where resource_manager = 'Btree'),
        sum(fpi_length)
    from pg_get_wal_records_info(%s, %s)
    where resource_manager <> 'Standby'
"""


def wal(bench: Bench, kinds: Sequence[type[Contender]]) -> dict[str, Any]:
    """WAL bytes without full-page images, records, and those of indexes, for each operation by itself."""
    calls = 300
    return {"calls": calls, "ours": _wal_of_ours(bench, calls), "bare": _wal_of_bare(bench, calls)}


class _Meter:
    """Counts the WAL of statements run one by one on one connection."""

    def __init__(self, conn: psycopg.Connection) -> None:
        self.conn = conn
        conn.execute("create extension pg_walinspect")
        self.found: dict[str, Figures] = {}

    def _now(self) -> str:
        row = self.conn.execute("select pg_current_wal_insert_lsn()").fetchone()
        assert row is not None
        return str(row[0])

    def run(self, name: str, statement: str, params: Sequence[Sequence[Any]]) -> list[Any]:
        """Run it with each of these, and note the mean of what it wrote."""
        before = self._now()
        rows = [self.conn.execute(statement.encode(), one, prepare=True).fetchone() for one in params]
        row = self.conn.execute(_WAL, (before, self._now())).fetchone()
        assert row is not None
        names = ("records", "bytes", "index_records", "full_page_bytes")
        self.found[name] = {key: float(value) / len(params) for key, value in zip(names, row, strict=True)}
        return rows


def _wal_of_ours(bench: Bench, calls: int) -> Figures:
    with bench.fresh(find("ours")) as place, psycopg.connect(place.dsn, autocommit=True) as conn:
        meter, none = _Meter(conn), [()] * calls
        meter.run("put", SCRIPTS["put"][0], none)

        def lease(name: str) -> list[Any]:
            return meter.run(name, "select id, receipt from queue_lease('bench')", none)

        held = lease("lease")
        meter.run("progress", "select queue_progress('bench', %s, %s, 50)", held)
        meter.run("release", "select queue_release('bench', %s, %s)", held)
        meter.run("error", "select queue_error('bench', %s, %s, 'not now', '1d')", lease("lease again"))
        meter.run("put again", SCRIPTS["put"][0], none)
        meter.run("complete", "select queue_complete('bench', %s, %s)", lease("lease again"))
        meter.run("put again", SCRIPTS["put"][0], none)
        meter.run("get", SCRIPTS["get"][0], none)
        return {name: figures for name, figures in meter.found.items() if "again" not in name}


def _wal_of_bare(bench: Bench, calls: int) -> Figures:
    with bench.fresh(find("bare")) as place, psycopg.connect(place.dsn, autocommit=True) as conn:
        meter, none = _Meter(conn), [()] * calls

        def by_id(statement: str) -> str:
            return statement.replace(":id;", "%s returning id")

        meter.run("put", SCRIPTS["put"][1], none)
        held = meter.run("lease", _BARE_LEASE.replace("\\gset", ""), none)
        meter.run("progress", by_id(_BARE_EXTEND), held)
        meter.run("release", by_id(_BARE_RELEASE), held)
        meter.run("error", by_id(_BARE_RELEASE), held)
        meter.run("complete", by_id(_BARE_COMPLETE), held)
        meter.run("put again", SCRIPTS["put"][1], none)
        meter.run("get", SCRIPTS["get"][1], none)
        return {name: figures for name, figures in meter.found.items() if "again" not in name}


# Round trips and WAL, by contender


class _Proxy:
    """Stands between a client and the server's Unix socket, and counts the answers.

    Each round trip ends with ReadyForQuery, whatever the driver.
    """

    def __init__(self, server: Path, folder: Path) -> None:
        self.answers = 0
        self._server = str(server / ".s.PGSQL.5432")
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(folder / ".s.PGSQL.5432"))
        self._listener.listen()
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Take no more connections."""
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.socket(socket.AF_UNIX)
            server.connect(self._server)
            for source, sink, look in ((client, server, False), (server, client, True)):
                threading.Thread(target=self._pump, args=(source, sink, look), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, look: bool) -> None:
        rest = b""
        try:
            while chunk := source.recv(65536):
                if look:
                    rest = self._count(rest + chunk)
                sink.sendall(chunk)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def _count(self, data: bytes) -> bytes:
        # A message is its kind, one byte, and its length, four, which counts itself.
        while len(data) >= 5 and len(data) > (size := int.from_bytes(data[1:5], "big")):
            self.answers += data[:1] == b"Z"
            data = data[size + 1 :]
        return data


@contextmanager
def _proxy(bench: Bench) -> Iterator[tuple[_Proxy, str]]:
    with tempfile.TemporaryDirectory(prefix="pgq-bench-") as folder:
        proxy = _Proxy(bench.server.folder, Path(folder))
        yield proxy, folder
        proxy.close()


def trips(bench: Bench, kinds: Sequence[type[Contender]]) -> dict[str, Any]:
    """Round trips, WAL bytes without full-page images, and index records of an operation, for each contender."""
    calls, results = 200, {}
    with _proxy(bench) as (proxy, folder):
        for kind in kinds:
            if kind.needs != "postgresql":
                continue
            results[kind.name] = {
                operation: _trips(bench, proxy, folder, kind, operation, calls)
                for operation, needs in (("put", Contender), ("get", Gets), ("lease_complete", Leases))
                if issubclass(kind, needs)
            }
            print(f"  {kind.name}", flush=True)
    return results


def _trips(
    bench: Bench, proxy: _Proxy, folder: str, kind: type[Contender], operation: str, calls: int
) -> dict[str, float]:
    with bench.fresh(kind) as place, bench.server.admin(place.dbname) as conn:
        meter = _Meter(conn)
        client = kind(Place(folder, place.dbname))
        client.connect()
        try:
            # Twice as many: some get warm. The takers find jobs.
            for n in range(20 if operation == "put" else calls + 20):
                client.put(payload(n))
            method: Callable[..., object] = getattr(client, operation)
            call = partial(method, payload(1)) if operation == "put" else method
            for _ in range(20):
                call()
            answers, before = proxy.answers, meter._now()
            for _ in range(calls):
                call()
            answers = proxy.answers - answers
            row = conn.execute(_WAL, (before, meter._now())).fetchone()
            assert row is not None
            return {
                "round_trips": answers / calls,
                "bytes": float(row[1]) / calls,
                "index_records": row[2] / calls,
                "records": row[0] / calls,
            }
        finally:
            client.close()


# Guards: the functions again, without one of them each

_CALL = r"(?:[^();]|\((?:[^();]|\([^();]*\))*\))*"
NOTHING: list[tuple[str, str]] = []

# Of the text that pg_get_functiondef gives: what is looked for, and what stands there instead.
GUARDS: dict[str, list[tuple[str, str]]] = {
    "definer rights": [(r"\n SECURITY DEFINER", "")],
    "search_path": [(r"\n SET search_path TO [^\n]*", "")],
    "definer rights and search_path": [(r"\n SECURITY DEFINER|\n SET search_path TO [^\n]*", "")],
    # Not a guard: without these a function is planned in other ways.
    "settings of the planner": [(r"\n SET (plan_cache_mode|enable_\w+|jit) TO [^\n]*", "")],
    "check of the name": [(r"if octet_length\(.*?end if;", "")],
    # In a condition it stands for what it gives when there are no settings.
    "settings lookup": [
        (rf"\bnot exists \({_CALL}\bqueue_setting\b{_CALL}\)", "true"),
        (rf"\bexists \({_CALL}\bqueue_setting\b{_CALL}\)", "false"),
    ],
    "tally": [(r"insert into queue_tally[^;]*;(\s*if random\(\).*?end if;)?", "")],
    "notify": [(r"if [^;]*?\bnotify\b[^;]*?then.*?end if;", "")],
}
_GUARDED = ("queue_put", "queue_get")


def _variants(conn: psycopg.Connection) -> dict[str, dict[str, int]]:
    """Make a schema for each guard, with the functions without it; how often each text was changed."""
    texts = {}
    for name in _GUARDED:
        row = conn.execute("select pg_get_functiondef(%s::regproc)", (name,)).fetchone()
        assert row is not None
        texts[name] = str(row[0])
    changed: dict[str, dict[str, int]] = {}
    for guard, edits in {"none": NOTHING, **GUARDS}.items():
        schema = sql.Identifier(f"without {guard}")
        conn.execute(sql.SQL("create schema {}").format(schema))
        changed[guard] = {}
        for name, text in texts.items():
            edited = re.sub(rf"FUNCTION \w+\.{name}", f'FUNCTION "without {guard}".{name}', text, count=1)
            changed[guard][name] = 0
            for pattern, instead in edits:
                edited, times = re.subn(pattern, instead, edited, flags=re.DOTALL | re.IGNORECASE)
                changed[guard][name] += times
            conn.execute(edited.encode())
    return changed


def guards(bench: Bench, kinds: Sequence[type[Contender]]) -> dict[str, Any]:
    """Microseconds of a call that does not wait for the disk, and of one without each guard.

    The variants take turns call by call, so that whatever else goes on here meets all of them alike;
    a saving is the median of the differences within the turns.
    """
    turns = round(500 * bench.options.function_seconds)
    results: dict[str, Any] = {}
    with bench.fresh(find("ours"), "some", lambda client: client.fill(range(1000))) as place:
        place = replace(place, options="-c synchronous_commit=off")
        with psycopg.connect(place.dsn, autocommit=True, prepare_threshold=0) as conn:
            changed = _variants(conn)
            for name in _GUARDED:
                names = ["none", *(guard for guard in GUARDS if changed[guard][name])]
                times = _take_turns(conn, name, names, turns)
                results[name] = {
                    guard: {
                        "us": median(times[guard]),
                        "saved_us": median(a - b for a, b in zip(times["none"], times[guard], strict=True)),
                    }
                    for guard in names
                }
                for guard, found in results[name].items():
                    print(f"  {name} without {guard}: {found['us']:.1f} µs, {found['saved_us']:.1f} less", flush=True)
    bench.forget()
    return {"turns": turns, "times": results, "changed": changed}


def _take_turns(conn: psycopg.Connection, name: str, guards: Sequence[str], turns: int) -> dict[str, list[float]]:
    data = f", '{_DATA}'" if name == "queue_put" else ""
    statements = {guard: f"""select "without {guard}".{name}('bench'{data})""".encode() for guard in guards}
    times: dict[str, list[float]] = {guard: [] for guard in guards}
    order = list(guards)
    for turn in range(-WARM, turns):
        random.shuffle(order)
        for guard in order:
            if name == "queue_get":
                conn.execute(SCRIPTS["put"][0].encode())  # the queue stays as long as it is
            begin = time.perf_counter()
            conn.execute(statements[guard])
            if turn >= 0:
                times[guard].append(1e6 * (time.perf_counter() - begin))
    return times


# Python


def python(bench: Bench, kinds: Sequence[type[Contender]]) -> dict[str, Any]:
    """Microseconds of a call through the package, and through psycopg alone; durable, and not. They take turns."""
    turns = round(250 * bench.options.function_seconds)
    jobs = range(4 * (turns + WARM))
    results: dict[str, Any] = {}
    for durable in ("on", "off"):
        for operation in ("put", "get", "lease_complete"):
            with (
                bench.fresh(find("ours"), "jobs", lambda client: client.fill(jobs)) as place,
                bench.fresh(find("bare"), "jobs", lambda client: client.fill(jobs)) as bare,
            ):
                places = {"ours": place, "ours-sql": place, "bare": bare}
                options = f"-c synchronous_commit={durable}"
                clients = {name: find(name)(replace(where, options=options)) for name, where in places.items()}
                times = _take_turns_of(clients, operation, turns)
            found = {name: median(figures) for name, figures in times.items()}
            added = median(a - b for a, b in zip(times["ours"], times["ours-sql"], strict=True))
            name = f"{operation.replace('_', ', ')}, {'durable' if durable == 'on' else 'not durable'}"
            results[name] = {**found, "added": added}
            print(f"  {name:28}" + " ".join(f"{figure:.0f}" for figure in results[name].values()), flush=True)
    bench.forget()
    return {"turns": turns, "times": results}


def _take_turns_of(clients: dict[str, Contender], operation: str, turns: int) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {name: [] for name in clients}
    for client in clients.values():
        client.connect()
    order = list(clients)
    for turn in range(-WARM, turns):
        random.shuffle(order)
        for name in order:
            call = getattr(clients[name], operation)
            arguments = (payload(10_000_000 + turn),) if operation == "put" else ()
            begin = time.perf_counter()
            call(*arguments)
            if turn >= 0:
                times[name].append(1e6 * (time.perf_counter() - begin))
    for client in clients.values():
        client.close()
    return times


SECTIONS: dict[str, tuple[str, Callable[[Bench, Sequence[type[Contender]]], dict[str, Any]]]] = {
    "pgbench": ("the SQL functions by pgbench, against bare statements", rates),
    "wal": ("WAL of each operation", wal),
    "trips": ("round trips and WAL of each contender", trips),
    "guards": ("what each guard costs", guards),
    "python": ("what Python adds", python),
}
