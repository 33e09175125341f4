"""The SQL functions alone, without Python: rates by pgbench, WAL, round trips, and what each guard costs."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import psycopg
from psycopg import sql

from .contender import Contender, Place, find, payload
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


def pgbench(bench: Bench, dbname: str, script: str, clients: int, seconds: float, durable: bool = True) -> float:
    """Runs of the script per second."""
    with tempfile.NamedTemporaryFile("w", suffix=".sql") as file:
        file.write(script)
        file.flush()
        options = "" if durable else "-c synchronous_commit=off"
        done = subprocess.run(
            [
                bench.server.programs / "pgbench", "-n", "-M", "prepared", "-c", str(clients), "-j", str(min(clients, 2)),
                "-T", str(max(1, round(seconds))), "-f", file.name, "-h", bench.server.folder, "-U", "postgres", dbname,
            ],
            env={**os.environ, "PGOPTIONS": options},
            capture_output=True,
            text=True,
        )  # fmt: skip
    found = re.search(r"tps = ([\d.]+)", done.stdout)
    if done.returncode or found is None:
        raise RuntimeError(f"pgbench: {done.stderr}")
    return float(found[1])


def rates(bench: Bench, kinds: Sequence[type[Contender]]) -> dict[str, Any]:
    """Runs per second of each script, by 1 client and by 8, durable."""
    seconds = bench.options.function_seconds
    deep = range(round(20_000 * max(1, seconds)))
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
                for operation in ("put", "get", "lease_complete")
                if kind.offers(operation)
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
            call: Callable[[], object] = getattr(client, operation)
            if operation == "put":
                call = lambda: client.put(payload(1))  # noqa: E731
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
GUARDS: dict[str, tuple[str, str]] = {
    # Of the text that pg_get_functiondef gives: what is looked for, and what stands there instead.
    "definer rights": (r"\n SECURITY DEFINER", ""),
    "search_path": (r"\n SET search_path TO [^\n]*", ""),
    "definer rights and all SET clauses": (r"\n SECURITY DEFINER|\n SET [^\n]*", ""),
    "check of the name": (r"if octet_length\(.*?end if;", ""),
    "settings lookup": (rf"\bnot exists \({_CALL}\bqueue_setting\b{_CALL}\)|\bexists \({_CALL}\bqueue_setting\b{_CALL}\)", "{}"),
    "tally": (r"insert into queue_tally[^;]*;(\s*if random\(\).*?end if;)?", ""),
    "notify": (r"if [^;]*?\bnotify\b[^;]*?then.*?end if;", ""),
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
    for guard, (pattern, instead) in {"none": (r"\Z", ""), **GUARDS}.items():
        schema = sql.Identifier(f"without {guard}")
        conn.execute(sql.SQL("create schema {}").format(schema))
        changed[guard] = {}
        for name, text in texts.items():
            # In a condition the look-up stands for what it gives when there are no settings.
            edited, times = re.subn(
                pattern,
                lambda match: {"not": "true", "exi": "false"}.get(match[0][:3], "") if instead else "",  # noqa: B023
                text,
                flags=re.DOTALL | re.IGNORECASE,
            )
            changed[guard][name] = 0 if guard == "none" else times
            edited = re.sub(rf"FUNCTION \w+\.{name}", f'FUNCTION "without {guard}".{name}', edited, count=1)
            conn.execute(edited.encode())
    return changed


def guards(bench: Bench, kinds: Sequence[type[Contender]]) -> dict[str, Any]:
    """Microseconds of a call, of one client that does not wait for the disk, and without each guard."""
    scripts = {
        "queue_put": f"""select "without {{}}".queue_put('bench', '{_DATA}');""",
        # The queue stays as long as it is.
        "queue_get": f"""select queue_put('bench', '{_DATA}');\nselect id from "without {{}}".queue_get('bench');""",
    }
    rounds = max(2, bench.options.rounds * 3)
    times: dict[str, dict[str, list[float]]] = {name: {} for name in scripts}
    with bench.fresh(find("ours"), "some", lambda client: client.fill(range(1000))) as place:
        with bench.server.admin(place.dbname) as conn:
            changed = _variants(conn)
        for _ in range(rounds):
            for name, script in scripts.items():
                for guard in changed:
                    if guard != "none" and not changed[guard][name]:
                        continue
                    tps = pgbench(bench, place.dbname, script.format(guard), 1, 1, durable=False)
                    times[name].setdefault(guard, []).append(1e6 / tps)
    bench.forget()
    for name, found in times.items():
        for guard, figures in found.items():
            saved = median(a - b for a, b in zip(found["none"], figures, strict=True))
            print(f"  {name} without {guard}: {median(figures):.1f} µs, {saved:+.1f}", flush=True)
    return {"times": times, "changed": changed}


SECTIONS: dict[str, tuple[str, Callable[[Bench, Sequence[type[Contender]]], dict[str, Any]]]] = {
    "pgbench": ("the SQL functions by pgbench, against bare statements", rates),
    "wal": ("WAL of each operation", wal),
    "trips": ("round trips and WAL of each contender", trips),
    "guards": ("what each guard costs", guards),
}
