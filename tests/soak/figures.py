"""The figures of some runs as a table in docs/reliability.md.

make soak seed=1 minutes=30 pg=18 args="--json soak18.json"     and the same with 15
cd tests && python -m soak.figures ../soak18.json ../soak15.json
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parent.parent.parent / "docs" / "reliability.md"
BEGIN, END = "<!-- begin figures: by `python -m soak.figures` -->", "<!-- end figures -->"


def table(runs: list[dict[str, Any]]) -> Iterator[str]:
    """A column for each run."""

    def line(name: str, *values: Any) -> str:
        return f"| {name} | " + " | ".join(f"{value:,}" if isinstance(value, int) else str(value) for value in values)

    def counts(title: str, name: str) -> str:
        return line(title, *(run[name] if isinstance(run[name], int) else sum(run[name].values()) for run in runs))

    yield line("", *(f"PostgreSQL {run['version']}" for run in runs))
    yield "| --- |" + " ---: |" * len(runs)
    yield line("seed", *(str(run["seed"]) for run in runs))
    yield line("seconds", *(f"{run['seconds']:.0f}" for run in runs))
    for mode in runs[0]["modes"]:
        for column, says in (
            ("put ok", "puts acknowledged"),
            ("put failed", "puts failed"),
            ("put unknown", "puts of unknown outcome"),
            ("taken", "deliveries"),
            ("done", "jobs done"),
        ):
            yield line(f"{mode}: {says}", *(run["modes"][mode].get(column, 0) for run in runs))
        if mode == "leased":
            yield line("leased: jobs done by workers", *(run["modes"][mode].get("done by workers", 0) for run in runs))
    yield counts("all faults", "faults")
    for kind in sorted({kind for run in runs for kind in run["faults"]}):
        yield line(f"fault: {kind}", *(run["faults"].get(kind, 0) for run in runs))
    yield counts("operations of unknown outcome", "unknown outcomes")
    for kind in sorted({kind for run in runs for kind in run["explained"]}):
        yield line(f"explained: {kind}", *(run["explained"].get(kind, 0) for run in runs))
    yield line("violations: lost, duplicated, unexplained, damaged, …", *(len(run["violations"]) for run in runs))
    yield line("median wait in the calm, seconds", *(f"{run['median wait']:.4f}" for run in runs))
    yield line("longest wait in the calm, seconds", *(f"{run['longest wait']:.3f}" for run in runs))


def main() -> None:
    runs = [json.loads(Path(name).read_text()) for name in sys.argv[1:]]
    lines = "\n".join(line if line.endswith("|") else f"{line} |" for line in table(runs))
    text = PAGE.read_text()
    found = re.compile(f"{re.escape(BEGIN)}.*{re.escape(END)}", re.DOTALL)
    PAGE.write_text(found.sub(lambda _: f"{BEGIN}\n{lines}\n{END}", text))


if __name__ == "__main__":
    main()
