"""The benchmark runs, and its report comes out. How fast anything is, no test says."""

import json
import subprocess
import sys
from pathlib import Path


def run(*args: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", *args], capture_output=True, text=True, cwd=Path(__file__).parent.parent
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_short_run_gives_figures_and_a_report_that_keeps_what_is_written_by_hand(tmp_path: Path) -> None:
    file = tmp_path / "results.json"
    run("benchmarks", "W1", "W4", "--quick", "--seconds", "0.2", "--only", "ours,bare", "--out", str(file))
    results = json.loads(file.read_text())
    for key in ("W1", "W4"):
        for name in ("ours", "bare"):
            (figures,) = results["workloads"][key]["rounds"][name]
            assert figures["value"] > 0

    page = tmp_path / "performance.md"
    written = page.read_text()
    assert "| W4 get one at a time, one consumer |" in written
    page.write_text("By hand.\n" + written)
    run("benchmarks.report", str(file))
    assert page.read_text() == "By hand.\n" + written
