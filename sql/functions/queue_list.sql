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
as $$
#variable_conflict use_column
declare
    v_now timestamptz := clock_timestamp();
begin
    if octet_length(queue_list.queue) between 1 and 255 is not true then
        perform _queue_refuse_name(queue_list.queue);
    end if;
    if queue_list.count < 1 then
        perform _queue_refuse_count(queue_list.count);
    end if;
    return query
    select
        j.id, j.data, j.data_text, j.data_bytes, - j.rank, j.enqueued_at, j.schedule_at,
        nullif(j.expected_at, 'infinity'), j.attempts, j.max_attempts, j.last_error,
        j.progress_count, j.consumer, j.dedupe_key, j.headers, j.ready_at
    from queue_job j
    where j.queue = queue_list.queue and (queue_list.scheduled or j.ready_at is null or j.ready_at <= v_now)
    -- All that could be taken now counts as due now, and sorts as it would be taken.
    order by coalesce(greatest(j.ready_at, v_now), v_now), j.rank, j.expected_at, j.id
    limit queue_list.count;
end
$$;

comment on function queue_list is $$
Look at the jobs of a queue without taking them.

They come in the order in which they would be taken; jobs that wait come after those that
could be taken now, the one due first before the others. Jobs that a transaction is taking
at this moment are still listed.

**queue**: name of the queue.
**scheduled**: true also lists the jobs that wait for their time.
**count**: list this many at most; by default all of them, which is a lot for a long queue.

Returns one row for each job: what `queue_get` returns, and `ready_at`, the time a waiting
job comes due, null for a job that is ready.

Errors: 22023 for a bad name or a count below 1.

    select id, data, ready_at from queue_list('apples', scheduled => true, count => 10);
$$;

revoke all on function queue_list from public;
