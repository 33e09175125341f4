"""The few things that differ between the asynchronous and the synchronous package by more than a name."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")

AsyncLock = asyncio.Lock
Lock = threading.Lock
async_sleep = asyncio.sleep
sleep = time.sleep


def async_owner() -> object:
    """Who runs this: the task."""
    return asyncio.current_task()


def owner() -> object:
    """Who runs this: the thread."""
    return threading.get_ident()


async def async_call(function: Callable[..., T], *args: Any) -> T:
    """A blocking function, run beside the loop."""
    return await asyncio.to_thread(function, *args)


def call(function: Callable[..., T], *args: Any) -> T:
    """A blocking function."""
    return function(*args)


def jitter(seconds: float) -> float:
    """Between half and all of the time, so that those who collided once don't meet again."""
    return seconds * random.uniform(0.5, 1)
