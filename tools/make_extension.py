"""Write build/extension: the migrations under the names that CREATE EXTENSION looks for, and the control file.

Each script holds the bytes of its migration, and after them tools/extension.sql. PostgreSQL 18 takes the
extension straight from there: extension_control_path = '…/build:$system'.
"""

from __future__ import annotations

import shutil
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TARGET = ROOT / "build" / "extension"


def main() -> None:
    """Write the folder anew."""
    shutil.rmtree(TARGET, ignore_errors=True)
    TARGET.mkdir(parents=True)
    shutil.copy(ROOT / "pgq_py.control", TARGET)
    trailer = (ROOT / "tools" / "extension.sql").read_bytes()
    previous = ""
    for script in sorted((ROOT / "migrations" / "versions").glob("[0-9][0-9][0-9][0-9]_*.py")):
        name = "--".join(["pgq_py", *([previous] if previous else []), script.stem[:4]])
        (TARGET / f"{name}.sql").write_bytes(script.with_suffix(".sql").read_bytes() + trailer)
        previous = script.stem[:4]


if __name__ == "__main__":
    main()
