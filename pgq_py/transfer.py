"""A queue as lines of JSON: the format of `queue.export_jobs` and of `pgq-py export`.

The first line says which queue it is, with its settings; the last one how many jobs came before it, so that a
part of a file is not taken for the whole. Each line in between is a job: its fields as `queue_export` gives
them, and its data under "data" (JSON), "text" or "bytes" (base64). JSON stays the text that it was, so that no
number is rounded on the way.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Iterator
from dataclasses import asdict
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from .calls import SETTINGS, Exported, Settings
from .codecs import Payload
from .errors import TransferError

FORMAT = 1
"""The version of the format, in the first line."""

_TOKEN = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"|[][{},:]')


class Moved(NamedTuple):
    """How many jobs an import stored, how many of them among the dead, and how many were there by their key."""

    jobs: int
    dead: int
    skipped: int


class Header(NamedTuple):
    """The first line: which queue it was, and the settings that held for it."""

    queue: str
    settings: dict[str, Any]


class Trailer(NamedTuple):
    """The last line: how many jobs came before it, and how many of them dead."""

    jobs: int
    dead: int


def header(queue: str, settings: Settings, at: datetime) -> str:
    """The first line."""
    values = {name: _plain(value) for name, value in asdict(settings).items() if name in SETTINGS}
    return _line({"pgq_py_export": FORMAT, "queue": queue, "exported_at": at.isoformat(), "settings": values})


def trailer(jobs: int, dead: int) -> str:
    """The last line."""
    return _line({"end": True, "jobs": jobs, "dead": dead})


def job_line(exported: Exported) -> str:
    """The line of a job."""
    return f"{exported.job[:-1]}, {data_member(exported.payload)}}}"


def data_member(payload: Payload) -> str:
    """A job's data as a member of an object: `"data": {"kind": "Cox"}`."""
    if payload.json is not None:
        return f'"data": {payload.json}'
    if payload.text is not None:
        return f'"text": {json.dumps(payload.text, ensure_ascii=False)}'
    return f'"bytes": "{base64.b64encode(payload.bytes or b"").decode()}"'


def read_line(line: str, number: int) -> Header | Trailer | Exported:
    """What a line says.

    Raises:
        TransferError: it is no line of an export.
    """
    try:
        members = dict(_members(line))
        if "pgq_py_export" in members:
            if json.loads(members["pgq_py_export"]) != FORMAT:
                raise TransferError("the file is of a newer pgq-py: run `pip install --upgrade pgq-py`")
            return Header(json.loads(members["queue"]), _settings(json.loads(members["settings"])))
        if "end" in members:
            return Trailer(int(members["jobs"]), int(members["dead"]))
        payload = _payload(members)
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, TransferError):
            raise
        # Not chained, and not quoted: it holds data.
        raise TransferError(f"line {number} is no line of an export") from None
    job = ", ".join(f"{json.dumps(name)}: {value}" for name, value in members.items())
    return Exported(0, f"{{{job}}}", payload, members.get("died_at", "null") != "null")


def _settings(given: dict[str, Any]) -> dict[str, Any]:
    """The settings of a header, those that there are."""
    if not set(given) <= set(SETTINGS):
        raise ValueError("settings")
    return given


def _payload(members: dict[str, str]) -> Payload:
    """The data, taken out of a line's members."""
    given = {kind: members.pop(kind) for kind in ("data", "text", "bytes") if kind in members}
    if len(given) != 1:
        raise ValueError("one of the three")
    if "data" in given:
        return Payload(json=given["data"])
    text = json.loads(next(iter(given.values())))
    if not isinstance(text, str):
        raise TypeError("text")
    if "text" in given:
        return Payload(text=text)
    try:
        return Payload(bytes=base64.b64decode(text, validate=True))
    except binascii.Error:
        raise ValueError("base64") from None


def _members(line: str) -> Iterator[tuple[str, str]]:
    """The members of the object that a line is: their names, and their values as they are written.

    Whether the values are JSON PostgreSQL says, to whatever depth it takes them.
    """
    depth, begin = 0, 0
    name: str | None = None
    for token in _TOKEN.finditer(line):
        kind, here = line[token.start()], line[begin : token.start()].strip()
        if kind == ":" and depth == 1:
            name, begin = json.loads(here), token.end()
        elif kind in ",}" and depth == 1:
            if name is not None:
                yield name, here
            name, begin = None, token.end()
        depth += (kind in "{[") - (kind in "}]")
        if kind == "{" and depth == 1:
            begin = token.end()
    if depth or not line.lstrip().startswith("{") or line[begin:].strip():
        raise ValueError("not one object")


def _plain(value: Any) -> Any:
    return value.total_seconds() if isinstance(value, timedelta) else value


def _line(values: dict[str, Any]) -> str:
    return json.dumps(values, ensure_ascii=False)
