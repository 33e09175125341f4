"""A queue that lives in PostgreSQL: put, get, scheduling and priority are SQL functions, called from here.

from pgq_py import PQ

pq = PQ("postgresql://localhost/mydb")
pq.create()
pq["apples"].put({"kind": "Cox"})
job = pq["apples"].get()
"""

from . import errors
from ._async.client import AsyncPQ
from ._async.job import AsyncDeadJob, AsyncJob
from ._async.queue import AsyncQueue, AsyncQueueSet
from ._async.task import AsyncTask, AsyncTasks
from ._async.worker import AsyncWorker
from ._sync.client import PQ
from ._sync.job import DeadJob, Job
from ._sync.queue import Queue, QueueSet
from ._sync.task import Task, Tasks
from ._sync.worker import Worker
from ._version import SCHEMA_VERSION, __version__
from .calls import Finding, JobId, Metrics, Right, Settings, Stats
from .codecs import Payload, Serializer
from .errors import Empty, Error, LeaseLost, UnknownTask
from .failures import Bury, Retry, Verdict
from .links import KEEPALIVES
from .times import Duration, When
from .transfer import Moved

__all__ = [
    "KEEPALIVES",
    "PQ",
    "SCHEMA_VERSION",
    "AsyncDeadJob",
    "AsyncJob",
    "AsyncPQ",
    "AsyncQueue",
    "AsyncQueueSet",
    "AsyncTask",
    "AsyncTasks",
    "AsyncWorker",
    "Bury",
    "DeadJob",
    "Duration",
    "Empty",
    "Error",
    "Finding",
    "Job",
    "JobId",
    "LeaseLost",
    "Metrics",
    "Moved",
    "Payload",
    "Queue",
    "QueueSet",
    "Retry",
    "Right",
    "Serializer",
    "Settings",
    "Stats",
    "Task",
    "Tasks",
    "UnknownTask",
    "Verdict",
    "When",
    "Worker",
    "__version__",
    "errors",
]
