"""The statements themselves: what any queue in PostgreSQL has to do at least."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import psycopg
from psycopg import sql

from ..contender import Cycles, Data, Gets, GetsMany, Leases, LeasesMany, OnJob, PutsMany, Receives

_CLAIM = "select id from bare_job {} order by id limit {} for update skip locked"
_PUT = "insert into bare_job (data) values (%s::jsonb) returning id"
_PUT_MANY = "insert into bare_job (data) select unnest(%s::jsonb[]) returning id"
_GET = f"delete from bare_job where id = ({_CLAIM.format('', 1)}) returning id, data"
_GET_MANY = f"""
    with claimed as materialized ({_CLAIM.format("", "%s")})
    delete from bare_job j using claimed where j.id = claimed.id returning j.id, j.data
"""
_FREE = "where lease_until is null"
_LEASE = f"""
    update bare_job set lease_until = now() + interval '5 minutes'
    where id = ({_CLAIM.format(_FREE, 1)}) returning id, data
"""
_LEASE_MANY = f"""
    with claimed as materialized ({_CLAIM.format(_FREE, "%s")})
    update bare_job j set lease_until = now() + interval '5 minutes'
    from claimed where j.id = claimed.id returning j.id, j.data
"""
# Unsafe, as BareFromLast says.
_NEXT = "where id > %s"
_GET_NEXT = f"delete from bare_job where id = ({_CLAIM.format(_NEXT, 1)}) returning id, data"
_LEASE_NEXT = f"""
    update bare_job set lease_until = now() + interval '5 minutes'
    where id = ({_CLAIM.format(f"{_NEXT} and lease_until is null", 1)}) returning id, data
"""
# Where a function has columns of the same names.
_RETURNING = "returning bare_job.id, bare_job.data"
_RELEASE = "update bare_job set lease_until = null where id = %s"
_COMPLETE = "delete from bare_job where id = %s"
_COMPLETE_MANY = "delete from bare_job where id = any(%s)"
# One transaction and one round trip.
_PUT_AND_NOTIFY = f"with added as ({_PUT}) select pg_notify('bare', '') from added"


class Bare(Gets, Leases, Cycles, PutsMany, GetsMany, LeasesMany, Receives):
    """One prepared statement for each operation, on a table with a key and nothing else."""

    name = "bare"
    about = "one prepared statement each, on a table with a key: INSERT, DELETE … SKIP LOCKED, UPDATE and DELETE"
    packages = ("psycopg", "psycopg-binary")
    left_sql = "select count(*), coalesce(sum((data->>'n')::bigint), 0) from bare_job"

    def install(self) -> None:
        """The table; its key is the one matching index."""
        with psycopg.connect(self.place.dsn, autocommit=True) as conn:
            conn.execute(
                "create table bare_job ("
                "id bigint generated always as identity primary key, lease_until timestamptz, data jsonb)"
            )

    def connect(self) -> None:
        """A connection that prepares each statement at once."""
        self.conn = psycopg.connect(self.place.dsn, autocommit=True, prepare_threshold=0)

    def close(self) -> None:
        """Hang up."""
        self.conn.close()

    def _row(self, statement: str, *params: Any) -> Any:
        return self.conn.execute(statement.encode(), params).fetchone()

    def put(self, data: Data) -> None:
        """INSERT."""
        self._row(_PUT, json.dumps(data))

    def put_waking(self, data: Data) -> None:
        """INSERT and NOTIFY."""
        self._row(_PUT_AND_NOTIFY, json.dumps(data))

    def get(self) -> Data | None:
        """DELETE."""
        row = self._row(_GET)
        return None if row is None else row[1]

    def lease_complete(self) -> Data | None:
        """UPDATE, then DELETE."""
        row = self._row(_LEASE)
        if row is None:
            return None
        self.conn.execute(_COMPLETE, (row[0],))
        data: Data = row[1]
        return data

    def cycle(self, data: Data) -> None:
        """INSERT, UPDATE thrice, DELETE."""
        self.put(data)
        self.conn.execute(_RELEASE, (self._row(_LEASE)[0],))
        self.lease_complete()

    def put_many(self, items: Sequence[Data]) -> None:
        """INSERT … unnest."""
        self.conn.execute(_PUT_MANY, ([json.dumps(data) for data in items],)).fetchall()

    def get_many(self, count: int) -> list[Data]:
        """DELETE of many."""
        return [data for _, data in self.conn.execute(_GET_MANY.encode(), (count,))]

    def lease_complete_many(self, count: int) -> list[Data]:
        """UPDATE of many, then DELETE of many."""
        rows = self.conn.execute(_LEASE_MANY.encode(), (count,)).fetchall()
        self.conn.execute(_COMPLETE_MANY, ([id for id, _ in rows],))
        return [data for _, data in rows]

    def receive(self, on_job: OnJob) -> None:
        """LISTEN, and DELETE at each notification."""
        self.conn.execute(sql.SQL("listen bare"))
        while True:
            while (data := self.get()) is not None:
                if not on_job(data):
                    return
            if not list(self.conn.notifies(timeout=1, stop_after=1)) and not on_job(None):
                return


class BareFunctions(Bare):
    """Bare, each statement in a function: what it costs to have the API in SQL, whatever else a queue does."""

    name = "bare-plpgsql"
    about = (
        "the bare statements, each alone in a PL/pgSQL function that its owner's rights and a search_path "
        "make safe to call: the least that an API in SQL costs"
    )
    workloads = ("W1", "W2", "W4", "W4L", "W5")

    def install(self) -> None:
        """The table, and four functions."""
        super().install()
        row = "returns table (id bigint, data jsonb)"
        functions = {
            "bare_put(data jsonb) returns bigint": """
                declare v_id bigint;
                begin
                    insert into bare_job (data) values (bare_put.data) returning id into v_id;
                    return v_id;
                end""",
            f"bare_get() {row}": f"begin return query {_GET.replace('returning id, data', _RETURNING)}; end",
            f"bare_lease() {row}": f"begin return query {_LEASE.replace('returning id, data', _RETURNING)}; end",
            "bare_complete(id bigint) returns boolean": """
                begin
                    delete from bare_job j where j.id = bare_complete.id;
                    return found;
                end""",
        }
        with psycopg.connect(self.place.dsn, autocommit=True) as conn:
            for head, body in functions.items():
                conn.execute(
                    f"create function {head} language plpgsql security definer set search_path to public, pg_temp "
                    f"as $$ #variable_conflict use_column\n{body} $$".encode()
                )

    def put(self, data: Data) -> None:
        """One call."""
        self._row("select bare_put(%s::jsonb)", json.dumps(data))

    def get(self) -> Data | None:
        """One call."""
        row = self._row("select id, data from bare_get()")
        return None if row is None else row[1]

    def lease_complete(self) -> Data | None:
        """Two calls."""
        row = self._row("select id, data from bare_lease()")
        if row is None:
            return None
        assert self._row("select bare_complete(%s)", row[0])[0]
        data: Data = row[1]
        return data


class BareFromLast(Bare):
    """Bare, but a consumer looks only at ids above the last one that it took: past the dead rows of all before.

    No queue may do so. Ids are given before commits: a job with a lower one that is committed later
    is never seen, nor is one that comes back. What safety costs is measured against it.
    """

    name = "bare-from-last"
    about = (
        "UNSAFE, in W9 for comparison only: bare, but a consumer scans from the last id it took, "
        "and loses jobs that are committed late"
    )
    workloads = ("W9", "W9L", "W9X", "W9LX")

    def connect(self) -> None:
        """Nothing taken yet."""
        super().connect()
        self.last = 0

    def get(self) -> Data | None:
        """DELETE of the next."""
        row = self._row(_GET_NEXT, self.last)
        if row is None:
            return None
        self.last = row[0]
        data: Data = row[1]
        return data

    def lease_complete(self) -> Data | None:
        """UPDATE of the next, then DELETE."""
        row = self._row(_LEASE_NEXT, self.last)
        if row is None:
            return None
        self.last = row[0]
        self.conn.execute(_COMPLETE, (row[0],))
        data: Data = row[1]
        return data
