"""A queue that lives in PostgreSQL: put, get, scheduling and priority are SQL functions, called from here.

from pgq_py import PQ

pq = PQ("postgresql://localhost/mydb")
pq.create()
pq["apples"].put({"kind": "Cox"})
job = pq["apples"].get()
"""

from . import errors
from ._async.client import AsyncPQ
from ._async.job import AsyncJob
from ._async.queue import AsyncQueue, AsyncQueueSet
from ._sync.client import PQ
from ._sync.job import Job
from ._sync.queue import Queue, QueueSet
from ._version import SCHEMA_VERSION, __version__
from .calls import Stats
from .codecs import Serializer
from .errors import Empty, Error
from .times import When

__all__ = [
    "PQ",
    "SCHEMA_VERSION",
    "AsyncJob",
    "AsyncPQ",
    "AsyncQueue",
    "AsyncQueueSet",
    "Empty",
    "Error",
    "Job",
    "Queue",
    "QueueSet",
    "Serializer",
    "Stats",
    "When",
    "__version__",
    "errors",
]
