"""Telling the server what became of a worker's jobs, and that it still works on the others."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from datetime import timedelta
from itertools import batched, groupby
from math import inf
from time import monotonic
from typing import TYPE_CHECKING, Any, TypeVar

import psycopg

from .._compat import async_sleep
from ..calls import Call
from ..errors import CommitUnknown, ConnectionLost, Error
from ..links import RETRY_LAST
from ..running import AsyncChannel
from .hand import END, TURN, AsyncHand, Failure, Outcome
from .job import AsyncJob
from .session import AsyncSession

if TYPE_CHECKING:
    from .client import AsyncPQ
    from .session import AsyncSource

log = logging.getLogger("pgq_py.worker")

T = TypeVar("T")
