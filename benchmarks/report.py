"""Tables and plots from the figures: `python -m benchmarks.report FILE`. Measures nothing.

The tables are written between markers into a page, docs/performance.md for the published figures;
what else stands in the page stays. The plots are put beside the figures.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from statistics import median, quantiles
from typing import Any, TypeAlias

from .contender import NAMES, NOT_RIVALS

Results: TypeAlias = dict[str, Any]

# Those in Redis are shown, but "the best rival" is one in PostgreSQL.
NOT_COMPARED = (*NOT_RIVALS, "hotqueue", "hotqueue-durable")


def main(argv: Sequence[str] | None = None) -> None:
    """Read the figures, write the page and the plots, print the goals."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.report", description=__doc__)
    parser.add_argument("file", type=Path, metavar="FILE", help="figures that `python -m benchmarks` wrote")
    parser.add_argument("--page", type=Path, help="the page with the tables (performance.md)")
    args = parser.parse_args(argv)
    results = json.loads(args.file.read_text())
    folder = args.file.parent
    # Published: docs/performance.md and docs/performance/results.json.
    page = args.page or (folder.parent if folder.name == "performance" else folder) / "performance.md"
    write_page(page, {name: make(results) for name, make in TABLES.items()})
    try:
        for name, draw in PLOTS.items():
            draw(results, folder / name)
    except ImportError as error:
        print(f"without plots: {error}")
    print(TABLES["goals"](results))
    print(f"tables: {page}; plots: {folder}")


def write_page(page: Path, tables: dict[str, str]) -> None:
    """Put each table between its markers; a page without them gets them at its end."""
    text = page.read_text() if page.exists() else "# Performance\n"
    for name, table in tables.items():
        begin, end = f"<!-- begin {name}: by `python -m benchmarks.report` -->", f"<!-- end {name} -->"
        block = f"{begin}\n{table}\n{end}"
        if begin in text:
            pattern = re.escape(begin) + ".*?" + re.escape(end)
            # A backslash would mean something in what `sub` is given.
            text = re.sub(pattern, block.replace("\\", r"\\"), text, count=1, flags=re.DOTALL)
        else:
            text += f"\n## {name[0].upper()}{name[1:]}\n\n{block}\n"
    page.write_text(text)


# Reading the figures


def rounds(results: Results, key: str, name: str) -> list[Results]:
    """The figures of each round of a contender."""
    found: list[Results] = results["workloads"].get(key, {}).get("rounds", {}).get(name, [])
    return found


def values(results: Results, key: str, name: str, field: str = "value") -> list[float]:
    """One figure of each round of a contender; those rounds that failed have none."""
    return [figures[field] for figures in rounds(results, key, name) if field in figures]


def middle(results: Results, key: str, name: str, field: str = "value") -> float | None:
    """The median of that."""
    found = values(results, key, name, field)
    return median(found) if found else None


def ratio(results: Results, key: str, name: str, other: str) -> float | None:
    """The median over the rounds of one contender against another, which ran in the same minutes."""
    found = [a / b for a, b in zip(values(results, key, name), values(results, key, other), strict=False) if b]
    return median(found) if found else None


def best_rival(results: Results, key: str) -> str | None:
    """The fastest other queue in PostgreSQL."""
    rivals = {
        name: found
        for name in results["workloads"].get(key, {}).get("rounds", {})
        if name not in NOT_COMPARED and (found := middle(results, key, name)) is not None
    }
    return max(rivals, key=rivals.__getitem__) if rivals else None


def against_rival(results: Results, key: str) -> float | None:
    """Ours against the best of them."""
    rival = best_rival(results, key)
    return None if rival is None else ratio(results, key, "ours", rival)


def beside(results: Results, name: str) -> float | None:
    """W10: the median ratio beside jobs of one kind."""
    found = [figures["ratios"][name] for figures in rounds(results, "W10", "ours") if "ratios" in figures]
    return median(found) if found else None


def delays(results: Results, name: str, field: str = "from_begin_ms") -> list[float]:
    """All wake-ups of a contender, in milliseconds."""
    return [ms for figures in rounds(results, "W7", name) for ms in figures.get(field, ())]


def percentile(figures: list[float], share: int) -> float:
    """Of at least two figures."""
    return quantiles(figures, n=100, method="inclusive")[share - 1]


def delay_ratio(results: Results, share: int) -> float | None:
    """Our wake-up against a raw NOTIFY's, at a percentile."""
    ours, bare = delays(results, "ours"), delays(results, "bare")
    return percentile(ours, share) / percentile(bare, share) if ours and bare else None


def overhead(results: Results, name: str) -> float | None:
    """What Python adds to the time of a call of the same functions."""
    found = results["functions"].get("python", {}).get("times", {}).get(name)
    return None if found is None else float(found["added"] / found["ours-sql"])


# Goals


@dataclass(frozen=True)
class Goal:
    """What is to be reached in a workload."""

    key: str
    text: str
    of: Callable[[Results], float | None]
    least: float | None = None
    most: float | None = None

    def met(self, value: float) -> bool:
        """Whether it is."""
        return (self.least is None or value >= self.least) and (self.most is None or value <= self.most)


def _of_bare(key: str, least: float) -> Goal:
    return Goal(key, f"at least {least:.2f} of bare", lambda results: ratio(results, key, "ours", "bare"), least)


def _itself(key: str, text: str, least: float) -> Goal:
    return Goal(key, text, lambda results: middle(results, key, "ours"), least)


def _of_base(key: str, base: str, least: float) -> Goal:
    text = f"at least {least:.2f} of {base}, run before and after it"
    return Goal(key, text, lambda results: middle(results, key, "ours", "of_base"), least)


def _python(operation: str) -> Goal:
    text = f"Python adds at most 0.15 to the time of {operation}, durable"
    return Goal("Python", text, lambda results: overhead(results, f"{operation}, durable"), most=0.15)


GOALS = (
    _of_bare("W1", 0.90),
    _of_bare("W2", 0.90),
    _of_bare("W3", 0.85),
    _of_bare("W4", 0.90),
    _of_bare("W4L", 0.90),
    _of_bare("W5", 0.85),
    _of_bare("W6", 0.60),
    Goal("W6L", "at least twice the best rival", lambda results: against_rival(results, "W6L"), 2),
    Goal("W7", "p50 at most 1.3 of a raw LISTEN/NOTIFY pair", lambda results: delay_ratio(results, 50), most=1.3),
    Goal("W7", "p99 at most 1.3 of a raw LISTEN/NOTIFY pair", lambda results: delay_ratio(results, 99), most=1.3),
    _itself("W8", "at least 0.97", 0.97),
    _itself("W9", "at least 0.90", 0.90),
    _itself("W9L", "at least 0.90", 0.90),
    _itself("W9X", "at least 0.90", 0.90),
    _itself("W9LX", "at least 0.90", 0.90),
    Goal("W10", "beside scheduled jobs at least 0.97", lambda results: beside(results, "scheduled"), 0.97),
    Goal("W10", "beside leased jobs at least 0.97", lambda results: beside(results, "leased"), 0.97),
    Goal("W11", "the first within 50 ms", lambda results: middle(results, "W11", "ours", "first_ms"), most=50),
    _of_base("W11", "W5", 0.7),
    _of_base("W12", "W2", 0.85),
    _of_base("W12S", "W2", 0.5),
    _of_base("W13", "W5", 0.8),
    _of_base("W13A", "W5", 0.8),
    _of_bare("W14", 0.80),
    Goal(
        "W14", "WAL per byte of data at most 1.2: it is written once",
        lambda results: middle(results, "W14", "ours", "wal_per_byte"), most=1.2,
    ),
    _itself("W15", "at least 0.90 of the loop", 0.90),
    _python("put"),
    _python("get"),
    _python("lease, complete"),
)  # fmt: skip


# Tables


def figure(value: float | None, unit: str = "") -> str:
    """A figure with as many digits as mean something."""
    if value is None:
        return ""
    if unit == "bytes/s":
        return f"{value / 1e6:,.1f} MB/s"
    if unit == "jobs/s" or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.2f}"


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Markdown; all columns but the first to the right."""
    lines = [heads, ["---", *["---:"] * (len(heads) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def entrants(results: Results) -> list[str]:
    """All that were measured."""
    found = {name for workload in results["workloads"].values() for name in workload["rounds"]}
    return [name for name in NAMES if name in found]


def goals(results: Results) -> str:
    """What was to be reached, and what was."""
    rows = []
    for goal in GOALS:
        if (value := goal.of(results)) is None:
            continue
        title = results["workloads"].get(goal.key, {}).get("title", "")
        rows.append([f"{goal.key} {title}".strip(), goal.text, figure(value), "yes" if goal.met(value) else "**no**"])
    return table(("workload", "goal", "measured", "met"), rows)


def rates(results: Results) -> str:
    """The median of each contender in each workload."""
    names = entrants(results)
    rows = []
    for key, workload in results["workloads"].items():
        cells = []
        for name in names:
            failed = name in workload["rounds"] and not values(results, key, name)
            cells.append("failed" if failed else figure(middle(results, key, name), workload["unit"]))
        rival = best_rival(results, key)
        is_rate = workload["unit"] in ("jobs/s", "bytes/s")
        rows.append(
            [
                f"{key} {workload['title']}" + (f", {workload['unit']}" if not is_rate else ""),
                *cells,
                figure(ratio(results, key, "ours", "bare")) if is_rate else "",
                f"{figure(against_rival(results, key))} ({rival})" if is_rate and rival else "",
            ]
        )
    lines = [table(("workload", *names, "ours/bare", "ours/best rival in PostgreSQL"), rows)]
    failures = sorted({error for workload in results["workloads"].values() for error in _errors(workload)})
    return "\n".join([*lines, *(["", "Failed:", ""] if failures else []), *(f"* {text}" for text in failures)])


def _errors(workload: dict[str, Any]) -> list[str]:
    return [
        f"{name}: {figures['error'].strip().splitlines()[-1]}"
        for name, rounds in workload["rounds"].items()
        for figures in rounds
        if "error" in figures
    ]


def waking(results: Results) -> str:
    """Wake-ups in milliseconds, from the call of put and from its return."""
    rows = []
    for name in entrants(results):
        begin, end = delays(results, name), delays(results, name, "from_end_ms")
        if len(begin) > 1:
            # A consumer may have the job before the producer has been told of its commit.
            late = [max(0.0, ms) for ms in end]
            shares = [percentile(figures, share) for figures in (begin, late) for share in (50, 99)]
            rows.append([name, str(len(begin)), *map(figure, shares)])
    return table(("consumer", "wake-ups", "from the call of put: p50", "p99", "from its return: p50", "p99"), rows)


def pgbench(results: Results) -> str:
    """The functions without Python."""
    rows = []
    for name, rounds in results["functions"].get("pgbench", {}).items():
        of_bare = median(a / b for a, b in zip(rounds["ours"], rounds["bare"], strict=True))
        rows.append([name, *(figure(median(rounds[who]), "jobs/s") for who in ("ours", "bare")), figure(of_bare)])
    return table(("calls, in this order", "our functions", "bare statements", "ours/bare"), rows)


def wal(results: Results) -> str:
    """WAL of each operation by itself."""
    found = results["functions"].get("wal", {})
    rows = []
    for operation, ours in found.get("ours", {}).items():
        bare = found["bare"].get(operation, {})
        keys = ("bytes", "records", "index_records")
        rows.append([operation, *(figure(who.get(key)) for key in keys for who in (ours, bare))])
    heads = ("operation", "bytes", "bare", "records", "bare", "of indexes", "bare")
    return table(heads, rows)


def trips(results: Results) -> str:
    """Round trips and WAL of each contender."""
    rows = []
    for name, operations in results["functions"].get("trips", {}).items():
        for operation, found in operations.items():
            keys = ("round_trips", "bytes", "index_records")
            rows.append([f"{name}, {operation.replace('_', ', ')}", *(figure(found[key]) for key in keys)])
    return table(("operation", "round trips", "WAL bytes", "index records"), rows)


def guards(results: Results) -> str:
    """What is saved by leaving each guard out."""
    section = results["functions"].get("guards", {})
    times = section.get("times", {})
    rows = []
    for guard in section.get("changed", {}):
        cells = []
        for found in times.values():
            if guard not in found:
                cells.append("has none")
            elif guard == "none":
                cells.append(f"{found[guard]['us']:.1f} in all")
            else:
                cells.append(f"{found[guard]['saved_us']:.1f}")
        rows.append(["the call" if guard == "none" else guard, *cells])
    return table(("guard", *(f"{name}, µs" for name in times)), rows)


def python(results: Results) -> str:
    """What the package adds to a call."""
    rows = []
    for name, found in results["functions"].get("python", {}).get("times", {}).items():
        times = [f"{found[who]:.0f}" for who in ("ours", "ours-sql", "bare")]
        rows.append([name, *times, f"{found['added']:.0f}, {100 * found['added'] / found['ours-sql']:.0f} %"])
    return table(("µs", "the package", "psycopg, the same functions", "bare statements", "the package adds"), rows)


def setting(results: Results) -> str:
    """What was measured, on what."""
    machine, settings, options = results["machine"], results["settings"], results["options"]
    lines = [
        f"Measured {results['made']}; rounds: {options['rounds']}, of {options['seconds']:g} s each.",
        "",
        f"* Machine: {machine['cpu']}, {machine['cores']} cores, {machine['memory_gb']} GB, {machine['system']}; "
        f"8 kB are durable after {machine['fdatasync_us']} µs (fdatasync, median).",
        "* Versions: " + ", ".join(f"{name} {version}" for name, version in results["versions"].items()) + ".",
        "* Settings: " + ", ".join(f"`{name} = {value}`" for name, value in settings.items()) + ".",
        *(f"* {name}: {about}." for name, about in results["about"].items()),
        *(f"* Without {name}: {why}." for name, why in results["absent"].items()),
    ]
    return "\n".join(lines)


TABLES: dict[str, Callable[[Results], str]] = {
    "goals": goals,
    "rates": rates,
    "waking": waking,
    "functions": pgbench,
    "WAL": wal,
    "round trips": trips,
    "guards": guards,
    "Python": python,
    "setting": setting,
}


# Plots


def _style(name: str) -> dict[str, Any]:
    colours = {
        "ours": "#d62728",
        "ours-sql": "#ff9896",
        "bare": "#555555",
        "bare-plpgsql": "#888888",
        "bare-from-last": "#aaaaaa",
        "hotqueue": "#dddddd",
    }
    rivals = [name for name in NAMES if name not in colours]
    palette = ["#1f77b4", "#2ca02c", "#9467bd", "#8c564b", "#e377c2", "#bcbd22", "#17becf"]
    return {"color": colours.get(name) or palette[rivals.index(name) % len(palette)]}


def _pyplot() -> Any:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot


def draw_rates(results: Results, path: Path) -> None:
    """A panel for each workload that is a rate, a bar for each contender."""
    pyplot = _pyplot()
    shown = {
        key: workload
        for key, workload in results["workloads"].items()
        if workload["unit"] == "jobs/s" and len(workload["rounds"]) > 2
    }
    if not shown:
        return
    columns = min(2, len(shown))
    lines = -(-len(shown) // columns)
    figure_, panels = pyplot.subplots(lines, columns, figsize=(6 * columns, 2.6 * lines), squeeze=False)
    for panel in panels.flat[len(shown) :]:
        panel.axis("off")
    for panel, (key, workload) in zip(panels.flat, shown.items(), strict=False):
        found = {name: middle(results, key, name) for name in NAMES if values(results, key, name)}
        names = list(reversed(found))
        bars = panel.barh(names, [found[name] for name in names], color=[_style(name)["color"] for name in names])
        panel.bar_label(bars, fmt="{:,.0f}", padding=3, fontsize=7)
        panel.margins(x=0.18)
        panel.set_title(f"{key}: {workload['title']}", fontsize=9)
        panel.tick_params(labelsize=7)
        panel.spines[["top", "right"]].set_visible(False)
    figure_.supxlabel("jobs per second, medians", fontsize=9)
    _save(figure_, path)


def draw_snapshot(results: Results, path: Path) -> None:
    """The rate in each second under an old snapshot."""
    pyplot = _pyplot()
    shown = [key for key in ("W9", "W9L", "W9X", "W9LX") if key in results["workloads"]]
    if not shown:
        return
    lines, columns = -(-len(shown) // 2), min(2, len(shown))
    figure_, panels = pyplot.subplots(lines, columns, figsize=(7 * columns, 4 * lines), squeeze=False)
    for panel in panels.flat[len(shown) :]:
        panel.axis("off")
    for panel, key in zip(panels.flat, shown, strict=False):
        for name in NAMES:
            series = values(results, key, name, "series")
            if series:
                # The middle of the rounds for each second, and of five seconds around it.
                rate = [median(seconds) for seconds in zip(*series, strict=False)]
                panel.plot(_smooth(rate), label=name, linewidth=2 if name == "ours" else 1.2, **_style(name))
        panel.set_title(f"{key}: {'lease and complete' if 'L' in key else 'get'}", fontsize=10)
        panel.set_xlabel("seconds with an old snapshot held open")
        panel.set_ylim(bottom=0)
        panel.spines[["top", "right"]].set_visible(False)
        panel.legend(fontsize=8, frameon=False)
    panels.flat[0].set_ylabel("jobs put and taken per second, by 2 processes")
    _save(figure_, path)


def _smooth(series: list[float], width: int = 5) -> list[float]:
    width = min(width, max(1, len(series) // 4))
    sums = [0, *accumulate(series)]
    half = width // 2
    spans = [(max(0, n - half), min(len(series), n + half + 1)) for n in range(len(series))]
    return [(sums[end] - sums[start]) / (end - start) for start, end in spans]


def draw_waking(results: Results, path: Path) -> None:
    """How many wake-ups took at most so long."""
    pyplot = _pyplot()
    found = {name: sorted(delays(results, name)) for name in NAMES if delays(results, name)}
    if not found:
        return
    figure_, panel = pyplot.subplots(figsize=(7, 4))
    for name, times in found.items():
        shares = [100 * (n + 1) / len(times) for n in range(len(times))]
        panel.step(times, shares, label=name, where="post", linewidth=2 if name == "ours" else 1.2, **_style(name))
    panel.set_xscale("log")
    panel.set_xlabel("milliseconds from the call of put to the job's arrival")
    panel.set_ylabel("% of wake-ups")
    panel.spines[["top", "right"]].set_visible(False)
    panel.legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    _save(figure_, path)


def draw_goals(results: Results, path: Path) -> None:
    """Ours against bare, and the goal."""
    pyplot = _pyplot()
    shown = [
        (goal, value)
        for goal in GOALS
        if goal.least is not None and goal.key in results["workloads"] and (value := goal.of(results)) is not None
    ]
    if not shown:
        return
    figure_, panel = pyplot.subplots(figsize=(7, 0.4 * len(shown) + 1))
    labels = [f"{goal.key}, {goal.text}" for goal, _ in shown]
    reached = [value / (goal.least or 1) for goal, value in shown]
    panel.barh(labels, reached, color=["#2ca02c" if share >= 1 else "#d62728" for share in reached])
    panel.axvline(1, color="black", linewidth=1)
    panel.invert_yaxis()
    panel.set_xlabel("measured, as a share of the goal")
    panel.tick_params(labelsize=8)
    panel.spines[["top", "right"]].set_visible(False)
    _save(figure_, path)


def _save(figure_: Any, path: Path) -> None:
    figure_.tight_layout()
    # Without the date and the version, so that the same figures give the same file.
    figure_.savefig(path, dpi=110, metadata={"Software": None})
    _pyplot().close(figure_)


PLOTS: dict[str, Callable[[Results, Path], None]] = {
    "goals.png": draw_goals,
    "rates.png": draw_rates,
    "snapshot.png": draw_snapshot,
    "waking.png": draw_waking,
}

if __name__ == "__main__":
    main()
