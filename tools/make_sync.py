"""Write the synchronous package, pgq_py/_sync, from the asynchronous one: `make sync`.

With --check nothing is written, and the exit code is 1 if anything would change.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path

import unasync

ROOT = Path(__file__).parent.parent
SOURCE, TARGET = ROOT / "pgq_py" / "_async", ROOT / "pgq_py" / "_sync"

# Names beginning with Async lose it; these are the others.
NAMES = {
    "Awaitable": "Awaitable",
    "aclose": "close",
    "async_call": "call",
    "async_owner": "owner",
    "async_signalled": "signalled",
    "async_sleep": "sleep",
    "enter_async_context": "enter_context",
    "find_async_host": "find_host",
}
HEADER = "# Generated from pgq_py/_async by tools/make_sync.py (`make sync`): edit that.\n"


def convert(text: str) -> str:
    """The synchronous text of an asynchronous module."""
    found = set(re.findall(r"\b_*Async[A-Z]\w*", text)) | {"AbstractAsyncContextManager"}
    names = NAMES | {name: name.replace("Async", "", 1) for name in found}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "_async", "module.py")
        path.parent.mkdir()
        path.write_text(text)
        unasync.unasync_files([str(path)], [unasync.Rule("/_async/", "/_sync/", names)])
        text = Path(folder, "_sync", "module.py").read_text()
    text = re.sub(r"^(\s*)# sync: ?", r"\1", text, flags=re.MULTILINE)
    # What is awaited is returned as it is.
    text = re.sub(r"\b(?:Awaitable\[|Coroutine\[Any, Any, )((?:[^\[\]]|\[[^\[\]]*\])*)\]", r"\1", text)
    text = re.sub(r" (?:Awaitable|Coroutine),", "", text)
    text = text.replace("_async", "_sync").replace("Asynchronous", "Synchronous")
    return tidy(HEADER + text)


def tidy(text: str) -> str:
    """The text as ruff formats it, its imports sorted."""
    ruff = [sys.executable, "-m", "ruff"]
    name = str(TARGET / "module.py")
    for command in (["check", "--select", "I", "--fix", "-q"], ["format", "-q"]):
        done = subprocess.run(
            [*ruff, *command, "--stdin-filename", name, "-"],
            input=text,
            text=True,
            capture_output=True,
            cwd=ROOT,
        )
        if done.returncode:
            raise SystemExit(done.stderr)
        text = done.stdout
    return text


def main(arguments: list[str]) -> int:
    """Write or check every module."""
    stale = []
    TARGET.mkdir(exist_ok=True)
    wanted = {TARGET / source.name: convert(source.read_text()) for source in sorted(SOURCE.glob("*.py"))}
    for path, text in wanted.items():
        if not path.exists() or path.read_text() != text:
            stale.append(path)
            if "--check" not in arguments:
                path.write_text(text)
    stale += [path for path in TARGET.glob("*.py") if path not in wanted]
    for path in stale:
        print(f"{path.relative_to(ROOT)} is {'out of date: run make sync' if '--check' in arguments else 'written'}")
    return 1 if stale and "--check" in arguments else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
