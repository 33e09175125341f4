create or replace function queue_list(
    queue text,
    scheduled boolean default false,
    count integer default null
)
returns table (
    id bigint,
    data jsonb,
    data_text text,
    data_bytes bytea,
    priority integer,
    enqueued_at timestamptz,
    schedule_at timestamptz,
    expected_at timestamptz,
    attempts integer,
    max_attempts integer,
    last_error text,
    progress_count bigint,
    consumer text,
    dedupe_key text,
    headers jsonb,
    ready_at timestamptz
)
language plpgsql
volatile
security definer
set search_path from current
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_sort = off
set jit = off
as $$
#variable_conflict use_column
declare
    v_now timestamptz := clock_timestamp();
begin
    if octet_length(queue_list.queue) between 1 and 255 is not true then
        perform _queue_refuse_name(queue_list.queue);
    end if;
    if session_user <> current_user
        or current_setting('session_authorization') = ''
        or current_setting('role') <> 'none'
    then
        perform _queue_allow(queue_list.queue, 'observe', 'manage');
    end if;
    if queue_list.count < 1 then
        perform _queue_refuse_count(queue_list.count);
    end if;
    -- In four parts, so that the first of a million jobs are read from an index.
    return query
    select
        l.id, l.data, l.data_text, l.data_bytes, - l.rank, l.enqueued_at, l.schedule_at,
        nullif(l.expected_at, 'infinity'), l.attempts, l.max_attempts, l.last_error,
        l.progress_count, l.consumer, l.dedupe_key, l.headers, greatest(l.ready_at, l.lease_until)
    from (
        (
            select j.*
            from queue_job j
            where j.queue = queue_list.queue and j.ready_at is null
            order by j.rank, j.expected_at, j.id
            limit queue_list.count
        )
        union all
        (
            select j.*
            from queue_job j
            where j.queue = queue_list.queue
                and j.ready_at is not null
                and j.ready_at <= v_now
                and (j.lease_until is null or j.lease_until <= v_now)
            order by j.rank, j.expected_at, j.id
            limit queue_list.count
        )
        union all
        (
            select j.*
            from queue_job j
            where queue_list.scheduled and j.queue = queue_list.queue and j.ready_at is not null and j.ready_at > v_now
            order by j.ready_at
            limit queue_list.count
        )
        union all
        -- Leases that heartbeats have extended beyond the time they are found by.
        (
            select j.*
            from queue_job j
            where queue_list.scheduled
                and j.queue = queue_list.queue
                and j.ready_at is not null
                and j.ready_at <= v_now
                and j.lease_until > v_now
            order by j.ready_at
            limit queue_list.count
        )
    ) l
    -- All that could be taken now counts as due now, and sorts as it would be taken.
    order by coalesce(greatest(l.ready_at, l.lease_until, v_now), v_now), l.rank, l.expected_at, l.id
    limit queue_list.count;
end
$$;

comment on function queue_list is $$
Look at the jobs of a queue without taking them.

They come in the order in which they would be taken; jobs that wait come after those that
could be taken now, the one due first before the others. Jobs that a transaction is taking
at this moment are still listed.

**queue**: name of the queue.
**scheduled**: true also lists the jobs that wait: scheduled, backing off or leased.
**count**: list this many at most; by default all of them, which is a lot for a long queue.

Returns one row for each job: what `queue_get` returns, and `ready_at`, the time a waiting
job comes due, null for a job that is ready.

Errors: 22023 for a bad name or a count below 1.

    select id, data, ready_at from queue_list('apples', scheduled => true, count => 10);
$$;

revoke all on function queue_list from public;
