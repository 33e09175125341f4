"""Make docs/reference.md from the comments in sql/functions/.

    python tools/make_reference.py            writes it
    python tools/make_reference.py --check    exits with 1 if it is out of date

Works on the text alone: no server is needed.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
FUNCTIONS = ROOT / "sql" / "functions"
REFERENCE = ROOT / "docs" / "reference.md"

# Every public function stands in one of these; one that doesn't stops the tool.
SUBJECTS = {
    "Putting": ["queue_put", "queue_put_many"],
    "Taking in a transaction": ["queue_get", "queue_get_any", "queue_bury"],
    "Leasing": [
        "queue_lease",
        "queue_lease_any",
        "queue_complete",
        "queue_complete_many",
        "queue_error",
        "queue_error_many",
        "queue_release",
        "queue_release_many",
        "queue_progress",
        "queue_progress_many",
    ],
    "Waiting": ["queue_listen", "queue_unlisten", "queue_wait", "queue_channel"],
    "Looking and changing": ["queue_list", "queue_count", "queue_stats", "queue_update", "queue_cancel"],
    "Dead jobs": ["queue_dead_list", "queue_redrive", "queue_dead_delete"],
    "Queues": ["queue_create", "queue_settings", "queue_pause", "queue_resume", "queue_clear", "queue_drop"],
    "Rights": ["queue_grant", "queue_grant_all", "queue_revoke", "queue_revoke_all", "queue_rights"],
    "Moving a queue": ["queue_export", "queue_import"],
    "Operation": ["queue_metrics", "queue_health", "queue_maintain"],
    "Installation": ["queue_version"],
}

OPENING = """\
# SQL reference

<!-- Made by tools/make_reference.py from the comments in sql/functions/. Edit those. -->

All that the queue does is done by these functions, from any language that reaches
PostgreSQL. In psql, `\\df+ queue_*` shows the same text.

Arguments after the first two are best given by name (`priority => 10`). The functions
are in the schema of the installation, `public` by default.

Above READ COMMITTED, a function that changes a job may fail with 40001, where another
transaction has changed that job since the caller's snapshot: roll back and try again.
"""


@dataclass
class Function:
    """A public function as its file tells it."""

    name: str
    signature: str
    comment: str

    @property
    def summary(self) -> str:
        """The first sentence of the comment."""
        first = " ".join(self.comment.split("\n\n")[0].split())
        return re.split(r"(?<=[.:]) (?=[A-Z])", first)[0]

    @property
    def examples(self) -> list[str]:
        """The indented blocks of the comment."""
        return [dedented(block) for block in self.comment.split("\n\n") if block.startswith("    ")]


def dedented(block: str) -> str:
    """An example without its indentation."""
    return "\n".join(line[4:] for line in block.splitlines())


def read(file: Path) -> Function:
    """The parts of a function's file."""
    text = file.read_text()
    name = file.stem
    signature = re.search(rf"create or replace function ({name}\(.*?)\nlanguage ", text, re.S)
    comment = re.search(rf"^comment on function {name} is \$\$\n(.*?)\n\$\$;", text, re.S | re.M)
    if signature is None or comment is None:
        raise SystemExit(f"{file} has no signature or no comment of the usual form")
    return Function(name, signature[1], comment[1])


def public_functions() -> dict[str, Function]:
    """All of them by name."""
    return {file.stem: read(file) for file in sorted(FUNCTIONS.glob("queue_*.sql"))}


def rendered(block: str) -> str:
    """A paragraph of a comment as Markdown: an example, a list of arguments, or text."""
    if block.startswith("    "):
        return f"```sql\n{dedented(block)}\n```"
    if block.startswith("**"):
        items = re.split(r"\n(?=\*\*)", block)
        return "\n".join("- " + item.replace("\n", "\n  ") for item in items)
    return block


def reference() -> str:
    """The whole text of docs/reference.md."""
    functions = public_functions()
    listed = [name for names in SUBJECTS.values() for name in names]
    if sorted(listed) != sorted(functions):
        different = ", ".join(sorted(set(listed) ^ set(functions)))
        raise SystemExit(f"SUBJECTS in tools/make_reference.py and sql/functions/ differ: {different}")
    parts = [OPENING]
    for subject, names in SUBJECTS.items():
        lines = "\n".join(f"- [{name}](#{name}): {functions[name].summary}" for name in names)
        parts.append(f"**{subject}**\n\n{lines}\n")
    for subject, names in SUBJECTS.items():
        parts.append(f"## {subject}\n")
        for name in names:
            function = functions[name]
            blocks = "\n\n".join(rendered(block) for block in function.comment.split("\n\n"))
            parts.append(f"### {name}\n\n```sql\n{function.signature}\n```\n\n{blocks}\n")
    return "\n".join(parts)


def main() -> None:
    """Write the reference, or check it."""
    text = reference()
    if "--check" in sys.argv[1:]:
        if not REFERENCE.exists() or REFERENCE.read_text() != text:
            raise SystemExit("docs/reference.md is out of date: run `python tools/make_reference.py`")
        return
    REFERENCE.write_text(text)


if __name__ == "__main__":
    main()
