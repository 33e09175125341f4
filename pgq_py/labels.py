"""What jobs are called in metrics and traces."""

from __future__ import annotations

from ._async.job import AsyncJob
from ._sync.job import Job


def task_of(job: Job | AsyncJob) -> str:
    """The name of the task that the job is a call of, if the PQ has it; otherwise empty.

    What else stands in the data is a producer's: any text, and any number of different ones.
    """
    data = job.data
    name = data.get("task") if isinstance(data, dict) else None
    return name if isinstance(name, str) and name in job._queue._pq.tasks else ""
