"""Measure: `python -m benchmarks [W1 W4 ...]`."""

from __future__ import annotations

import argparse
import dataclasses
import importlib.metadata
import json
import signal
import sys
import time
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from . import functions, report, workers
from .contender import NAMES, Contender, find
from .server import REDIS, PostgreSQL, Redis, machine, redis_version
from .workloads import QUICK, WORKLOADS, Bench, Options, Workload

ROOT = Path(__file__).parent.parent
PUBLISHED = ROOT / "docs" / "performance" / "results.json"
# Of a run that measures only some of it.
SCRATCH = ROOT / "build" / "bench" / "results.json"

# Named in the report, so that nobody looks for them in vain.
ABSENT = {"pgque": "its client is on PyPI (pgque-py), its SQL is not"}


def main() -> None:
    """Parse, start the servers, measure, write, report."""
    args = parse()
    options = dataclasses.replace(QUICK if args.quick else Options(), **given(args))
    names = args.only or [name for name in NAMES if name not in args.without]
    chosen = args.what or [*(key for key in WORKLOADS if not WORKLOADS[key].on_demand), *functions.SECTIONS]
    partial = bool(args.what or args.only or args.without or args.quick)
    out: Path = args.out or (SCRATCH if partial else PUBLISHED)
    kinds, absent = present(names)
    print(f"measures {len(kinds)} contenders; figures go to {out}", flush=True)
    workers.preload([kind.name for kind in kinds])
    # Stop the servers whoever ends us.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    with ExitStack() as stack:
        server = PostgreSQL(args.folder)
        stack.callback(server.stop)
        server.start()
        redis = {}
        for need in sorted({kind.needs for kind in kinds} & set(REDIS)):
            redis[need] = Redis(args.folder, REDIS[need])
            stack.callback(redis[need].stop)
        bench = Bench(server, redis, options)
        results: dict[str, Any] = {
            "made": datetime.now(UTC).isoformat(timespec="seconds"),
            "machine": machine(server.folder),
            "options": dataclasses.asdict(options),
            "settings": server.settings(),
            "versions": versions(server, kinds),
            "about": {kind.name: kind.about for kind in kinds},
            "absent": absent,
            "workloads": {},
            "functions": {},
        }
        if args.merge and out.exists():
            # It stays what it says about itself; what is measured now has a time of its own.
            results |= json.loads(out.read_text())
        out.parent.mkdir(parents=True, exist_ok=True)
        for key in chosen:
            if key in WORKLOADS:
                results["workloads"][key] = measure(bench, key, kinds)
            else:
                print(f"{key}: {functions.SECTIONS[key][0]}", flush=True)
                everywhere = [kind for kind in kinds if not kind.workloads]
                results["functions"][key] = functions.SECTIONS[key][1](bench, everywhere)
            results["ended"] = datetime.now(UTC).isoformat(timespec="seconds")
            # After each, so that an interrupted run is not lost.
            out.write_text(json.dumps(results, indent=1) + "\n")
    report.main([str(out)])


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    keys = [*WORKLOADS, *functions.SECTIONS]
    parser.add_argument(
        "what", nargs="*", metavar="WHAT", help=f"what to measure, by default all but W9X, W9LX: {' '.join(keys)}"
    )
    parser.add_argument("--quick", action="store_true", help="a few minutes in all: to see that it works")
    parser.add_argument("--rounds", type=int, help="how often each contender is measured (3)")
    parser.add_argument("--seconds", type=float, help="how long each time (3)")
    parser.add_argument("--snapshot-seconds", type=float, help="how long under an old snapshot, W9 (90)")
    parser.add_argument("--snapshot-rounds", type=int, help="how often that (1)")
    parser.add_argument("--long-snapshot-seconds", type=float, help="the same, W9X and W9LX (600)")
    parser.add_argument("--function-seconds", type=float, help="how long each loop over a single SQL function (2)")
    parser.add_argument("--only", type=listed, help=f"these contenders, with commas: {','.join(NAMES)}")
    parser.add_argument("--without", type=listed, default=[], help="all contenders but these")
    parser.add_argument("--out", type=Path, help="the file of the figures")
    parser.add_argument("--merge", action="store_true", help="keep what that file has and is not measured now")
    parser.add_argument(
        "--folder", type=Path, default=Path("/var/tmp"), help="where the servers' data go: on a disk, not in memory"
    )
    args = parser.parse_args()
    unknown = [key for key in args.what if key not in keys] + [n for n in args.only or () if n not in NAMES]
    if unknown:
        parser.error(f"unknown: {', '.join(unknown)}")
    return args


def listed(text: str) -> list[str]:
    """What is between commas."""
    return text.split(",")


def given(args: argparse.Namespace) -> dict[str, Any]:
    """The options that the command line changes."""
    names = {field.name for field in dataclasses.fields(Options)}
    return {name: value for name, value in vars(args).items() if name in names and value is not None}


def present(names: list[str]) -> tuple[list[type[Contender]], dict[str, str]]:
    """The contenders that can run here, and why the others can't."""
    kinds: list[type[Contender]] = []
    absent = dict(ABSENT)
    for name in names:
        try:
            kind = find(name)
            if kind.needs != "postgresql" and redis_version() is None:
                raise ImportError("there is no redis-server")
            kinds.append(kind)
        except Exception as error:
            absent[name] = f"{type(error).__name__}: {error}"
            print(f"without {name}: {absent[name]}", file=sys.stderr)
    return kinds, absent


def versions(server: PostgreSQL, kinds: list[type[Contender]]) -> dict[str, str]:
    """Of all that takes part."""
    found = {"python": sys.version.split()[0], "postgresql": server.version()}
    for package in sorted({package for kind in kinds for package in kind.packages} | {"pgq-py", "psycopg"}):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    if any(kind.needs != "postgresql" for kind in kinds):
        found["redis-server"] = redis_version() or ""
    return found


def measure(bench: Bench, key: str, kinds: list[type[Contender]]) -> dict[str, Any]:
    """One workload: each round runs every contender once."""
    workload = WORKLOADS[key]
    entrants = [
        kind
        for kind in kinds
        if all(issubclass(kind, operation) for operation in workload.needs)
        and (not workload.only or kind.name in workload.only)
        and kind.name not in workload.but
        and (not kind.workloads or key in kind.workloads)
    ]
    rounds = bench.options.snapshot_rounds if key.startswith("W9") else bench.options.rounds
    results: dict[str, list[Any]] = {kind.name: [] for kind in entrants}
    title = bench.options.title(workload.title)
    print(f"{key}: {title}", flush=True)
    begin = time.monotonic()
    for n in range(rounds):
        for kind in entrants:
            try:
                figures = compared(bench, kind, workload)
                print(f"  {n + 1} {kind.name:18}{report.figure(figures['value'], workload.unit)}", flush=True)
            except Exception as error:  # of one contender: the others go on
                figures = {"error": f"{type(error).__name__}: {error}"}
                print(f"  {n + 1} {kind.name:18}{figures['error']}", flush=True)
            results[kind.name].append(figures)
    bench.forget()
    made = datetime.now(UTC).isoformat(timespec="seconds")
    return {"title": title, "made": made, "unit": workload.unit, "seconds": time.monotonic() - begin, "rounds": results}


def compared(bench: Bench, kind: type[Contender], workload: Workload) -> dict[str, Any]:
    """One measurement, and what it is compared with: that just before and just after it, since the machine changes."""
    if not workload.base:
        return workload.measure(bench, kind)
    base = WORKLOADS[workload.base].measure
    before, figures, after = base(bench, kind), workload.measure(bench, kind), base(bench, kind)
    middle = (before["value"] + after["value"]) / 2
    return {**figures, "base": middle, "of_base": figures["value"] / middle}


if __name__ == "__main__":
    main()
