"""Values on their way to PostgreSQL and back: the few types that the functions take and give.

Not psycopg's adapters: those look up by each value's type how to write it, and by each column's how
to read it, at each call. Here a statement says once what its parameters are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta, tzinfo
from struct import Struct
from typing import Any, NamedTuple
from uuid import UUID
from zoneinfo import ZoneInfo

from psycopg import BaseConnection

TEXT, BINARY = 0, 1


class Dialect(NamedTuple):
    """What the settings of a session say about reading its values."""

    encoding: str
    zone: tzinfo


_dialects: dict[tuple[bytes | None, bytes | None], Dialect] = {}


def dialect_of(conn: BaseConnection[Any]) -> Dialect:
    """The dialect that the connection speaks now: its owner may change these settings at any time."""
    pgconn = conn.pgconn
    settings = pgconn.parameter_status(b"client_encoding"), pgconn.parameter_status(b"TimeZone")
    found = _dialects.get(settings)
    if found is None:
        # A session without an encoding takes and gives any bytes.
        encoding = "utf-8" if settings[0] == b"SQL_ASCII" else conn.info.encoding
        found = _dialects[settings] = Dialect(encoding, _zone(settings[1] or b"UTC"))
    return found


def _zone(name: bytes) -> tzinfo:
    try:
        return ZoneInfo(name.decode())
    except (KeyError, OSError, ValueError):  # as SET TIME ZONE -3 makes
        return UTC


class Kind(NamedTuple):
    """A type of parameters: its number, whether it goes as text or binary, and how to write a value."""

    oid: int
    format: int
    dump: Callable[[Any, str], bytes]


def _text(value: Any, encoding: str) -> bytes:
    if isinstance(value, str):
        return value.encode(encoding)
    # As it came from the server, or what has a text: a UUID as dedupe_key.
    return value if isinstance(value, bytes) else str(value).encode(encoding)


def _plain(value: Any, encoding: str) -> bytes:
    return str(value).encode()


def _integer(value: Any, encoding: str) -> bytes:
    return b"%d" % value if isinstance(value, int) else str(value).encode()


def _boolean(value: Any, encoding: str) -> bytes:
    return b"t" if value else b"f"


def _bytes(value: Any, encoding: str) -> bytes:
    return bytes(value)


def _uuid(value: Any, encoding: str) -> bytes:
    return value if isinstance(value, bytes) else bytes(value.bytes)


# Microseconds, days, months.
_INTERVAL = Struct("!qii")
_LENGTH = Struct("!i")
_DOUBLE = Struct("!d")
_ARRAY = Struct("!iiiii")
_BIGINT_ITEM = Struct("!4xq")


def _interval(value: timedelta, encoding: str) -> bytes:
    return _INTERVAL.pack(value.seconds * 1_000_000 + value.microseconds, value.days, 0)


def _array(oid: int, items: Sequence[bytes | None]) -> bytes:
    if not items:
        return _ARRAY.pack(0, 0, oid, 0, 0)[:12]
    parts = [_ARRAY.pack(1, None in items, oid, len(items), 1)]
    for item in items:
        parts += (b"\xff\xff\xff\xff",) if item is None else (_LENGTH.pack(len(item)), item)
    return b"".join(parts)


def _texts(values: Sequence[Any], encoding: str) -> bytes:
    return _array(25, [None if value is None else _text(value, encoding) for value in values])


def _byte_strings(values: Sequence[bytes | None], encoding: str) -> bytes:
    return _array(17, values)


def _jsons(values: Sequence[Any], encoding: str) -> bytes:
    # The first byte is the version of the format.
    return _array(3802, [None if value is None else b"\x01" + _text(value, encoding) for value in values])


def _uuids(values: Sequence[bytes], encoding: str) -> bytes:
    return _array(2950, values)


def _bigints(values: Sequence[int], encoding: str) -> bytes:
    return b"{%s}" % b",".join([_integer(value, encoding) for value in values])


KINDS = {
    "text": Kind(25, BINARY, _text),  # binary, so that a NUL is refused and not the end
    "int": Kind(23, TEXT, _integer),  # as text, so that one out of range is the server's error
    "bigint": Kind(20, TEXT, _integer),
    "bool": Kind(16, TEXT, _boolean),
    "jsonb": Kind(3802, TEXT, _text),
    "bytea": Kind(17, BINARY, _bytes),
    "interval": Kind(1186, BINARY, _interval),
    "timestamptz": Kind(1184, TEXT, _plain),
    "uuid": Kind(2950, BINARY, _uuid),
    "text[]": Kind(1009, BINARY, _texts),
    "bytea[]": Kind(1001, BINARY, _byte_strings),
    "jsonb[]": Kind(3807, BINARY, _jsons),
    "uuid[]": Kind(2951, BINARY, _uuids),
    "bigint[]": Kind(1016, TEXT, _bigints),
}


def read_text(data: bytes, dialect: Dialect) -> str:
    """Text."""
    return data.decode(dialect.encoding)


def read_json(data: bytes, dialect: Dialect) -> str:
    """The text of jsonb: the codec of the queue reads it."""
    return data[1:].decode(dialect.encoding)


def read_integer(data: bytes, dialect: Dialect | None = None) -> int:
    """An integer of any size."""
    return int.from_bytes(data, "big", signed=True)


def read_float(data: bytes, dialect: Dialect) -> float:
    """A number of double precision."""
    return float(_DOUBLE.unpack(data)[0])


def read_boolean(data: bytes, dialect: Dialect) -> bool:
    """A boolean."""
    return data == b"\x01"


def read_bytes(data: bytes, dialect: Dialect) -> bytes:
    """Bytes as they are."""
    return data


def read_uuid(data: bytes, dialect: Dialect) -> UUID:
    """A UUID."""
    return UUID(bytes=data)


_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)


def read_time(data: bytes, dialect: Dialect) -> datetime:
    """A time, in the zone of the session; a year that Python doesn't have gives its first or last moment.

    Any SQL caller may put such a time, and the job would be taken and then lost to an error in the
    reading of it.
    """
    micros = read_integer(data)
    try:
        return (_EPOCH + timedelta(microseconds=micros)).astimezone(dialect.zone)
    except OverflowError:
        return (datetime.min if micros < 0 else datetime.max).replace(tzinfo=UTC)


def read_interval(data: bytes, dialect: Dialect) -> timedelta:
    """A length of time, a month taken for 30 days and a year for 365, as psycopg does; the longest for a longer one."""
    micros, days, months = _INTERVAL.unpack(data)
    years = int(months / 12)
    try:
        return timedelta(days=days + 365 * years + 30 * (months - 12 * years), microseconds=micros)
    except OverflowError:
        return timedelta.max if days + 30 * months > 0 else timedelta.min


def read_bigints(data: bytes, dialect: Dialect | None = None) -> list[int]:
    """An array of bigint without nulls."""
    return [number for (number,) in _BIGINT_ITEM.iter_unpack(data[20:])]


def read_booleans(data: bytes, dialect: Dialect | None = None) -> list[bool]:
    """An array of boolean without nulls."""
    return [item == 1 for item in data[24::5]]


Reader = Callable[[bytes, Dialect], Any]
# By the number of the column's type.
READERS: dict[int, Reader] = {
    16: read_boolean,
    17: read_bytes,
    20: read_integer,
    21: read_integer,
    23: read_integer,
    25: read_text,
    701: read_float,
    1000: read_booleans,
    1016: read_bigints,
    1184: read_time,
    1186: read_interval,
    2950: read_uuid,
    3802: read_json,
}
