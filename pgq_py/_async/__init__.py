"""The package proper: PQ, queues, jobs, for one of the two worlds. `make sync` writes _sync from _async."""
