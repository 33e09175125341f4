# Generated from pgq_py/_async by tools/make_sync.py (`make sync`): edit that.
"""Tasks: functions whose calls are put into a queue, and made by a worker."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterator, Mapping
from datetime import timedelta
from functools import update_wrapper
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar

from ..calls import JobId
from ..codecs import Codec
from ..errors import PayloadError, PayloadTooLarge, TimeError, UnknownTask
from ..failures import Bury, Retries, Verdict
from ..functions import FOR_ONE_CALL, blame, check, is_coroutine, name_of, origin_of, signature_of
from ..times import Duration, When, at_or_in, length

if TYPE_CHECKING:
    from .job import Job
    from .queue import Queue

P = ParamSpec("P")
R = TypeVar("R")

# An option that was not given, where None means something.
_KEEP: Any = object()


class Task(Generic[P, R]):
    """A function whose calls are put into a queue: made by `queue.task`.

    Attributes:
        name: by which its jobs find it.
        queue: into which a call is put.
        function: what was decorated.
        is_coroutine: whether the function gives a coroutine, to be awaited.
        bind: whether the function has the job as its first argument.
        lease_for: how long the workers hold a job of it; None: as the queue says.
    """

    def __init__(
        self,
        queue: Queue,
        function: Callable[..., R],
        *,
        bind: bool = False,
        schedule_at: When | None = None,
        expected_at: When | None = None,
        priority: int = 0,
        max_attempts: int | None = None,
        retry_in: Duration | Mapping[type[BaseException], Duration | None] | None = None,
        bury_on: type[BaseException] | Collection[type[BaseException]] = (),
        lease_for: Duration | None = None,
        name: str | None = None,
    ) -> None:
        if isinstance(function, Task):
            raise TypeError(f"{function!r} is a task already: function.configure(queue=...) puts elsewhere")
        if not callable(function):
            raise TypeError(f"a task is a function, not a {type(function).__name__}")
        self.queue = queue
        self.function = function
        self.bind = bind
        self.is_coroutine = is_coroutine(function)
        self.name = name_of(function) if name is None else name
        self.lease_for: timedelta | None = length("lease_for", lease_for)
        if self.lease_for is not None and self.lease_for <= timedelta(0):
            raise TimeError(f"lease_for is {lease_for!r}: give a time above 0")
        self.__signature__ = signature_of(function, bind)
        self._retries = Retries(retry_in, bury_on)
        at_or_in("schedule_at", schedule_at)
        at_or_in("expected_at", expected_at)
        self._options: dict[str, Any] = {
            "schedule_at": schedule_at,
            "expected_at": expected_at,
            "priority": priority,
            "max_attempts": max_attempts,
        }
        update_wrapper(self, function, updated=())

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r} of {self.queue.name!r}>"

    def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> JobId:
        """Put a job that will call the function with these arguments.

        On an idle connection it is durable when this returns; inside a transaction, when that commits.
        `_schedule_at` and `_expected_at` among the arguments are for this one call.

        Returns:
            The job's id.

        Raises:
            TypeError: the function does not take these arguments.
            PayloadError: they can't be stored, or would arrive as something else; a TypeError, too.
        """
        return self._put(self.queue, args, kwargs)

    def put_in(self, through: Any, /, *args: P.args, **kwargs: P.kwargs) -> JobId:
        """Put a job as a call does, but through another connection, whose open transaction it joins.

        Args:
            through: a connection or cursor of psycopg's, a connection or session of SQLAlchemy's, Django's
                connection; or a PQ; or a queue, into which it is put then.
            args: of the function.
            kwargs: of the function.
        """
        return self._put(self.queue._through(through), args, kwargs)

    def _put(self, queue: Queue, args: tuple[Any, ...], kwargs: dict[str, Any]) -> JobId:
        options = dict(self._options)
        for name in FOR_ONE_CALL:
            given = kwargs.pop(name, None)
            if given is not None:
                options[name[1:]] = given
        return queue.put(self._data(queue.codec, args, kwargs), **options)

    def call(self, /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call the function here and now; nothing is put.

        Raises:
            TypeError: the function takes a job (`bind`): call `function(job, ...)`.
        """
        if self.bind:
            raise TypeError(f"{self.name} takes a job as its first argument: call .function(job, ...)")
        return self.function(*args, **kwargs)

    def data(self, /, *args: P.args, **kwargs: P.kwargs) -> dict[str, Any]:
        """What a call with these arguments puts, for `queue.put_many` for example.

        Raises:
            TypeError: the function does not take these arguments.
            PayloadError: they can't be stored, or would arrive as something else; a TypeError, too.
        """
        return self._data(self.queue.codec, args, kwargs)

    def _data(self, codec: Codec, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        try:
            bound = self.__signature__.bind(*args, **kwargs)
        except TypeError as error:
            raise TypeError(f"{self.name}: {error}") from None
        data: dict[str, Any] = {"task": self.name}
        if args:
            data["args"] = list(args)
        if kwargs:
            data["kwargs"] = kwargs
        try:
            check(codec, data)
        except PayloadTooLarge:
            raise
        except PayloadError as error:
            raise blame(codec, bound, self.name, error) from error.__cause__
        return data

    def configure(
        self,
        *,
        schedule_at: When | None = _KEEP,
        expected_at: When | None = _KEEP,
        priority: int = _KEEP,
        max_attempts: int | None = _KEEP,
        dedupe_key: str | None = _KEEP,
        headers: Any = _KEEP,
        notify: bool = _KEEP,
        queue: Queue | str = _KEEP,
    ) -> Task[P, R]:
        """The same task with other options for what it puts: `f.configure(priority=5)(...)`.

        Args:
            schedule_at, expected_at, priority, max_attempts, dedupe_key, headers, notify: as for `queue.put`.
            queue: to put into.
        """
        given = {
            "schedule_at": schedule_at,
            "expected_at": expected_at,
            "priority": priority,
            "max_attempts": max_attempts,
            "dedupe_key": dedupe_key,
            "headers": headers,
            "notify": notify,
        }
        made = copy.copy(self)
        made._options = self._options | {name: value for name, value in given.items() if value is not _KEEP}
        if queue is not _KEEP:
            made.queue = self.queue._sibling(queue) if isinstance(queue, str) else queue
        return made

    def run(self, job: Job) -> Any:
        """Call the function with the arguments of the job, the job first where it is bound.

        Returns:
            What the function gives: of one that is a coroutine, to be awaited.

        Raises:
            Bury: the function does not take these arguments.
        """
        data = job.data
        args, kwargs = data.get("args", ()), data.get("kwargs", {})
        try:
            return self.function(job, *args, **kwargs) if self.bind else self.function(*args, **kwargs)
        except TypeError:
            # The function's own, or that of the call? To look before each call would cost more than the call.
            try:
                self.__signature__.bind(*args, **kwargs)
            except TypeError as error:
                raise Bury(f"{self.name}: {error}") from None
            raise

    def verdict(self, error: BaseException) -> Verdict:
        """What becomes of a job whose attempt has ended with this exception."""
        return self._retries.verdict(error)


class Tasks:
    """The tasks of a PQ, by name: `pq.tasks`."""

    def __init__(self) -> None:
        self._tasks: dict[str, Task[..., Any]] = {}

    def add(self, task: Task[..., Any]) -> None:
        """Make the task known by its name; in place of the one that its function was before it was loaded again.

        Raises:
            ValueError: another function's task has the name.
        """
        known = self._tasks.get(task.name)
        if known is not None and origin_of(known.function) != origin_of(task.function):
            raise ValueError(
                f"{origin_of(task.function)} can't be the task {task.name!r}: {origin_of(known.function)} is. "
                "Give one of them another name="
            )
        self._tasks[task.name] = task

    def of(self, job: Job) -> Task[..., Any]:
        """The task that a job is a call of.

        Raises:
            UnknownTask: no task here has the name.
            PayloadError: the job is no call of a task.
        """
        data = job.data
        if not isinstance(data, dict) or not isinstance(data.get("task"), str):
            raise PayloadError('the job is no call of a task: its data is not {"task": name, ...}')
        if not isinstance(data.get("args", []), list) or not isinstance(data.get("kwargs", {}), dict):
            raise PayloadError("the job is no call of a task: args in its data must be an array, and kwargs an object")
        return self[data["task"]]

    def __getitem__(self, name: str) -> Task[..., Any]:
        """The task of this name.

        Raises:
            UnknownTask: there is none.
        """
        try:
            return self._tasks[name]
        except KeyError:
            raise UnknownTask(f"no task here is named {name[:200]!r}: is its module imported?") from None

    def __contains__(self, name: object) -> bool:
        return name in self._tasks

    def __iter__(self) -> Iterator[Task[..., Any]]:
        return iter(list(self._tasks.values()))

    def __len__(self) -> int:
        return len(self._tasks)
