create or replace function queue_metrics()
returns table (
    queue text,
    ready bigint,
    scheduled bigint,
    retrying bigint,
    leased bigint,
    dead bigint,
    paused integer,
    oldest_ready_seconds float8,
    put bigint,
    taken bigint,
    completed bigint,
    failed bigint,
    died bigint
)
language plpgsql
volatile
security definer
set search_path from current
as $$
begin
    -- Which queues the caller may observe is found there.
    return query
    select
        s.name,
        s.ready,
        s.scheduled,
        s.retrying,
        s.leased,
        s.dead,
        s.paused::integer,
        coalesce(greatest(extract(epoch from clock_timestamp() - s.oldest_ready_at), 0), 0)::float8,
        s.put,
        s.taken,
        s.completed,
        s.failed,
        s.died
    from queue_stats() s;
end
$$;

comment on function queue_metrics is $$
`queue_stats` of all queues as a monitoring system takes it: numbers only, none of them null. The
time grows with the number of queues, not of jobs.

Returns one row for each **queue** that has jobs, dead jobs, settings or totals, and that the
caller may observe, sorted by name.

Gauges, which are as they are now: **ready**, **scheduled**, **retrying**, **leased** and **dead**, numbers
of jobs; **paused**, 1 or 0; **oldest_ready_seconds**, for how long the job that has waited longest
could have been taken, 0 if none can. With more than 1,000 jobs waiting, ready to leased are
estimates whose sum is exact: see `queue_stats`.

Counters, which only grow: **put**, **taken**, **completed**, **failed** and **died**. They are kept
by the database, so whoever reads them agrees with all others, whatever was restarted in
between. They are exact, count what is committed, and begin at zero again after `queue_drop` only:
`queue_clear`, `queue_cancel`, `queue_redrive` and `queue_dead_delete` leave them as they are.

Errors: none of its own.

    select queue, ready, oldest_ready_seconds, died from queue_metrics();
$$;

revoke all on function queue_metrics from public;
