# Generated from pgq_py/_async by tools/make_sync.py (`make sync`): edit that.
"""The package proper: PQ, queues, jobs, for one of the two worlds. `make sync` writes _sync from _sync."""
