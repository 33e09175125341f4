"""The functions of tasks: what they are called, what they take, and whether that arrives."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping
from typing import Any, TypedDict

from .codecs import JSON, Codec
from .errors import DecodeError, PayloadError
from .times import Duration, When

# For one call, taken out before the function has its arguments: as in pq.
FOR_ONE_CALL = ("_schedule_at", "_expected_at")


class TaskOptions(TypedDict, total=False):
    """The options of `queue.task`, which says what they mean; each may be left out."""

    schedule_at: When | None
    expected_at: When | None
    priority: int
    max_attempts: int | None
    retry_in: Duration | Mapping[type[BaseException], Duration | None] | None
    bury_on: type[BaseException] | Collection[type[BaseException]]
    lease_for: Duration | None
    name: str | None


def origin_of(function: Callable[..., Any]) -> str:
    """Where a function comes from, under the name by which its module is imported where that is known."""
    module = getattr(function, "__module__", None)
    if module in ("__main__", "__mp_main__"):
        # `python -m app.tasks` knows; the child of multiprocessing's calls it __mp_main__.
        spec = getattr(function, "__globals__", {}).get("__spec__")
        module = module if spec is None else spec.name
    return f"{module}.{getattr(function, '__qualname__', type(function).__qualname__)}"


def name_of(function: Callable[..., Any]) -> str:
    """The name under which jobs find the function, in whatever process."""
    origin = origin_of(function)
    if not hasattr(function, "__qualname__") or "<lambda>" in origin:
        raise ValueError("what has no name of its own needs one as a task: @queue.task(name=...)")
    if origin.startswith(("__main__.", "__mp_main__.")):
        raise ValueError(
            f"{function.__qualname__} is in the program that was started, whose module has another name elsewhere: "
            "put the task into a module that is imported, or name it: @queue.task(name=...)"
        )
    return origin


def signature_of(function: Callable[..., Any], bind: bool) -> inspect.Signature:
    """What a call of the task takes."""
    signature = inspect.signature(function)
    parameters = list(signature.parameters.values())
    for name in FOR_ONE_CALL:
        if name in signature.parameters:
            raise ValueError(f"a task's function can't have a parameter {name}: it is the call's")
    if bind:
        signature.bind_partial(None)  # a TypeError if nothing takes the job
        if parameters[0].kind is not inspect.Parameter.VAR_POSITIONAL:
            signature = signature.replace(parameters=parameters[1:])
    return signature


def is_coroutine(function: Callable[..., Any]) -> bool:
    """Whether what it gives is to be awaited.

    Raises:
        TypeError: it is a generator.
    """
    called = (function, type(function).__call__)
    if any(inspect.isgeneratorfunction(each) or inspect.isasyncgenfunction(each) for each in called):
        raise TypeError(f"{origin_of(function)} is a generator: to call it would do nothing")
    return any(map(inspect.iscoroutinefunction, called))


def check(codec: Codec, data: Any) -> None:
    """Raises `PayloadError` unless the worker gets what is given here."""
    payload = codec.encode(data)
    if payload.json is None:
        return
    try:
        arrives = JSON.decode(payload) == data
    except (DecodeError, RecursionError):
        raise PayloadError("the data is nested too deep for JSON") from None
    if not arrives:
        raise PayloadError(
            "the data would arrive as something else: JSON has lists for tuples, and only text as the keys of a dict"
        )


def blame(codec: Codec, bound: inspect.BoundArguments, task: str, error: PayloadError) -> PayloadError:
    """The error of an argument, with its name."""
    for name, value in bound.arguments.items():
        kind = bound.signature.parameters[name].kind
        try:
            check(codec, list(value) if kind is inspect.Parameter.VAR_POSITIONAL else value)
        except PayloadError as found:
            return PayloadError(f"{task}: argument {name!r}: {found}")
    return error
