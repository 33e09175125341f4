"""Signed data: a seal before what a serializer gave, checked before the serializer reads it."""

from __future__ import annotations

import hmac
import re
from collections.abc import Sequence
from typing import Any, TypeAlias, TypeVar

from .errors import DecodeError

Secret: TypeAlias = bytes | str | Sequence[bytes | str]
"""A key to sign with, or several: the first signs, all verify. Each has 16 bytes or more; text stands for its UTF-8."""

Content = TypeVar("Content", bytes, str)

MIN_KEY = 16
MARK = "pgq_py-signed-1:"
# No pickle of any protocol begins so: a reader that knows nothing of seals fails at the first byte.
_SEAL = re.compile(MARK + "([0-9a-f]{64}):", re.ASCII)
_LENGTH = len(MARK) + 64 + 1


class Keys:
    """The keys of a PQ. Neither their text nor their length is ever shown."""

    __slots__ = ("_keys",)

    def __init__(self, secret: Secret | None) -> None:
        """Raises `ValueError` for a key that is too short, or none where some should be."""
        if secret is None:
            given: Sequence[Any] = ()
        elif isinstance(secret, bytes | str):
            given = [secret]
        else:
            given = list(secret)
            if not given:
                raise ValueError("secret is an empty sequence: give it at least one key, or None to sign nothing")
        self._keys = tuple(map(_key, given))

    def __bool__(self) -> bool:
        return bool(self._keys)

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {len(self._keys)}>"

    def digests(self, message: bytes) -> list[str]:
        """The HMAC-SHA-256 of the message by each key, in hexadecimal digits."""
        return [hmac.digest(key, message, "sha256").hex() for key in self._keys]


def _key(key: Any) -> bytes:
    if isinstance(key, str):
        try:
            key = key.encode()
        except UnicodeEncodeError:
            # Not chained: Python's error holds the text.
            raise ValueError("a key of secret has half of a surrogate pair, which is not Unicode text") from None
    if not isinstance(key, bytes):
        raise TypeError(f"a key of secret is bytes or text, not {type(key).__name__}")
    if len(key) < MIN_KEY:
        raise ValueError(f"a key of secret has less than {MIN_KEY} bytes: make one with secrets.token_bytes(32)")
    return key


class Seal:
    """How the data of one queue and codec is signed; not at all where there are no keys.

    The format is in docs/design/pickles.md.
    """

    def __init__(self, keys: Keys, queue: str, codec: str) -> None:
        self._keys = keys
        self._queue = queue
        self._codec = codec

    def _digests(self, content: bytes | str) -> list[str]:
        kind, data = ("text", content.encode()) if isinstance(content, str) else ("bytes", content)
        # Each with its length, so that no byte can pass from one to its neighbour.
        fields = (self._queue.encode(), self._codec.encode(), kind.encode(), data)
        return self._keys.digests(b"".join(len(field).to_bytes(8, "big") + field for field in fields))

    def put_on(self, content: Content) -> Content:
        """The content with its seal before it."""
        if not self._keys:
            return content
        seal = f"{MARK}{self._digests(content)[0]}:"
        return seal + content if isinstance(content, str) else seal.encode() + content

    def take_off(self, stored: Content) -> Content:
        """The content, if its seal is good.

        Raises:
            DecodeError: it is not by one of the keys; or is missing; or can't be checked, for want of a key.
        """
        head = stored[:_LENGTH] if isinstance(stored, str) else stored[:_LENGTH].decode("latin-1")
        match = _SEAL.fullmatch(head)
        if not self._keys:
            if match is not None:
                raise DecodeError(
                    "the job is signed, and there is no key to check it with: give this PQ the secret of its producers"
                )
            return stored
        if match is None:
            raise DecodeError(
                "the job is not signed, and this PQ has a secret: "
                "only a PQ without one reads it, where all who could put it are trusted"
            )
        content = stored[_LENGTH:]
        # With each key, in constant time: how long a refusal takes tells nothing.
        if not sum(hmac.compare_digest(match[1], digest) for digest in self._digests(content)):
            raise DecodeError(
                f"the signature is not by a key of this PQ for queue {self._queue!r} and codec {self._codec!r}"
            )
        return content
