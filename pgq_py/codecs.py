"""How data becomes what a row holds (JSON, text or bytes), and back."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from decimal import Decimal
from typing import Any, NamedTuple, Protocol, runtime_checkable

from .errors import DecodeError, PayloadError, PayloadTooLarge
from .signatures import Content, Keys, Seal


@runtime_checkable
class Serializer(Protocol):
    """Anything with `dumps` and `loads`, such as the modules json, pickle, marshal or yaml wrappers."""

    def dumps(self, obj: Any, /) -> str | bytes:
        """The object as text or bytes; stored as such."""
        ...

    def loads(self, data: Any, /) -> Any:
        """The object from what `dumps` returned."""
        ...


class Payload(NamedTuple):
    """A job's data as it is stored: exactly one of the three is not None.

    Of `pq.queue(name, raw=True)` it is what is put and what jobs have. `json` is the text of JSON.
    """

    json: str | None = None
    text: str | None = None
    bytes: bytes | None = None

    @property
    def size(self) -> int:
        """In bytes; of JSON, as PostgreSQL writes it."""
        if self.bytes is not None:
            return len(self.bytes)
        return len((self.text if self.text is not None else self.json or "").encode())


# As large as the largest JSON of PostgreSQL. What is much larger can't even be sent: at 1 GB the server hangs up.
LARGEST = 2**28 - 1


def check_size(content: Content) -> Content:
    """The content, if a job can hold it.

    Raises:
        PayloadTooLarge: otherwise.
    """
    # Each character is 4 bytes at most: to count the bytes would be half of the time of a put.
    if len(content) * 4 > LARGEST:
        size = len(content.encode() if isinstance(content, str) else content)
        if size > LARGEST:
            raise PayloadTooLarge(f"the data have {size} bytes, and a job takes {LARGEST} at most: put where it is")
    return content


class Codec(Protocol):
    """What a queue object uses to store and read."""

    def encode(self, data: Any) -> Payload:
        """Raises `PayloadError` when the data can't be stored, `PayloadTooLarge` where it is larger than any may be."""
        ...

    def decode(self, payload: Payload) -> Any:
        """Raises `DecodeError` when the payload can't be read."""
        ...


# An escaped NUL: \u0000 after an even number of backslashes.
_NUL = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")
# Numbers this long need a closer look; regular expressions are cheaper than a walk.
_LONG = re.compile(r"[0-9]{19}")
_DIGIT = re.compile(r"[0-9]")


def _may_have_long_number(text: str) -> bool:
    # Of 19 digits in a row one is among the text's every 19th characters.
    return _DIGIT.search(text[18::19]) is not None and _LONG.search(text) is not None


def _make_dumps() -> Callable[[Any], str]:
    """`json.dumps` with our options, without what it makes anew at each call: half of its time."""
    # Circular data ends with a RecursionError, too.
    encoder = json.JSONEncoder(allow_nan=False, ensure_ascii=False, check_circular=False, separators=(",", ":"))
    # None in a Python without the C module: then to call it is a TypeError, too.
    make_encoder: Any = getattr(json.encoder, "c_make_encoder", None)
    try:
        chunks = make_encoder(
            None, encoder.default, json.encoder.encode_basestring, None, ":", ",", False, False, False
        )
        works = "".join(chunks({"a": [1, "ä"]}, 0)) == '{"a":[1,"ä"]}'
    except (AttributeError, TypeError):  # nobody has promised that there is such a thing
        works = False
    return (lambda data: "".join(chunks(data, 0))) if works else encoder.encode


_dumps = _make_dumps()


def _has_big_integer(data: Any) -> bool:
    if isinstance(data, int):
        return not -(2**63) <= data < 2**64
    if isinstance(data, dict):
        return any(_has_big_integer(value) for value in data.values())
    if isinstance(data, list | tuple):
        return any(_has_big_integer(value) for value in data)
    return False


def _integer(text: str) -> int | float:
    """The number: a float if it is beyond the integers we store and is just what a float writes."""
    number = int(text)
    if -(2**63) <= number < 2**64:
        return number
    try:
        near = float(number)
    except OverflowError:
        return number
    return near if Decimal(repr(near)) == number else number


_DECODER = json.JSONDecoder()
# 1e300 comes back from jsonb with all its zeros.
_LONG_DECODER = json.JSONDecoder(parse_int=_integer)


def _loads(text: str) -> Any:
    """`json.loads` of what jsonb writes, which begins and ends without spaces."""
    data, end = (_LONG_DECODER if _may_have_long_number(text) else _DECODER).raw_decode(text)
    if end != len(text):
        raise ValueError("more than one JSON value")
    return data


class JSONCodec:
    """JSON in a jsonb column: what any language and any SQL query can read."""

    def encode(self, data: Any) -> Payload:
        """Refuses what other readers of the queue would fail on or read as something else."""
        try:
            text = _dumps(data)
            text.encode()
        except RecursionError:
            raise PayloadError("the data is nested too deep for JSON") from None
        except UnicodeEncodeError:
            raise PayloadError("the data has half of a surrogate pair, which is not Unicode text") from None
        except (TypeError, ValueError) as error:
            # Not chained: Python's message may show the data.
            kind = "NaN or infinite" if "not JSON compliant" in str(error) else "not JSON"
            raise PayloadError(
                f"the data is {kind}: put dicts, lists, str, int, float, bool or None, or use a serializer"
            ) from None
        if "\\u0000" in text and _NUL.search(text):
            raise PayloadError("the data has a NUL character, which PostgreSQL can't store as JSON: use a serializer")
        if _may_have_long_number(text) and _has_big_integer(data):
            raise PayloadError(
                "the data has an integer of more than 64 bits, which other languages read wrong: put it as text"
            )
        return Payload(json=check_size(text))

    def decode(self, payload: Payload) -> Any:
        """What `json.loads` makes of it."""
        if payload.json is None:
            raise DecodeError("the job holds text or bytes, and this queue reads JSON: open it with its serializer")
        try:
            return _loads(payload.json)
        except (ValueError, RecursionError) as error:
            raise DecodeError(f"the JSON can't be read: {type(error).__name__}") from error


class StoredCodec:
    """The data as it is stored, of whatever kind: for tools that pass it on, and need not know what it means."""

    def encode(self, data: Any) -> Payload:
        """A `Payload` as it is. What of it is no JSON, PostgreSQL refuses."""
        if not isinstance(data, Payload) or sum(part is not None for part in data) != 1:
            raise PayloadError("a raw queue takes a Payload with one of json, text and bytes")
        check_size(data.json or data.text or "")
        check_size(data.bytes or b"")
        return data

    def decode(self, payload: Payload) -> Payload:
        """The `Payload`."""
        return payload


def _name_of(serializer: Serializer) -> str:
    """The name by which the codec is signed: of the module or class, without where it is.

    Not with it: a class of the program that is run is in `__main__` there, and elsewhere for all others.
    """
    name: str = getattr(serializer, "__name__", type(serializer).__name__)
    return name.rpartition(".")[2]


class SerializerCodec:
    """Text or bytes, as a serializer gives them and stored as such; with keys, signed."""

    def __init__(self, serializer: Serializer, keys: Keys, queue: str) -> None:
        if not isinstance(serializer, Serializer):
            raise TypeError(f"a serializer has dumps and loads; {serializer!r} lacks one")
        self.serializer = serializer
        self._seal = Seal(keys, queue, _name_of(serializer))

    def encode(self, data: Any) -> Payload:
        """What `dumps` returns; its errors pass through as the cause."""
        try:
            dumped = self.serializer.dumps(data)
        except Exception as error:
            raise PayloadError(f"the serializer can't store the data: {type(error).__name__}") from error
        if isinstance(dumped, str):
            if "\0" in dumped:
                raise PayloadError("the serialized text has a NUL character, which PostgreSQL can't store as text")
            try:
                dumped.encode()
            except UnicodeEncodeError:
                raise PayloadError("the serialized text has half of a surrogate pair: give bytes instead") from None
            return Payload(text=check_size(self._seal.put_on(dumped)))
        if isinstance(dumped, bytes | bytearray | memoryview):
            return Payload(bytes=check_size(self._seal.put_on(bytes(dumped))))
        raise PayloadError(f"dumps returned {type(dumped).__name__}: a serializer gives text or bytes")

    def decode(self, payload: Payload) -> Any:
        """What `loads` makes of it. With keys it is called only after the signature was found good."""
        if payload.json is not None:
            raise DecodeError("the job holds JSON, and this queue reads with a serializer: open it without one")
        content: str | bytes
        if payload.bytes is not None:
            content = self._seal.take_off(payload.bytes)
        else:
            content = self._seal.take_off(payload.text or "")
        try:
            return self.serializer.loads(content)
        except (Exception, SystemExit) as error:
            # SystemExit: a pickle imports modules, and what is no module but a program may exit. The job would be
            # given back, and end worker after worker.
            raise DecodeError(f"the serializer can't read the job: {type(error).__name__}") from error


JSON = JSONCodec()
