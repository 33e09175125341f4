create or replace function queue_stats(
    queue text default null
)
returns table (
    name text,
    ready bigint,
    scheduled bigint,
    retrying bigint,
    leased bigint,
    dead bigint,
    paused boolean,
    oldest_ready_at timestamptz,
    next_due_at timestamptz
)
language plpgsql
volatile
security definer
set search_path from current
as $$
declare
    v_now timestamptz := clock_timestamp();
begin
    if octet_length(queue_stats.queue) not between 1 and 255 then
        perform _queue_refuse_name(queue_stats.queue);
    end if;
    return query
    select
        n.name,
        coalesce(j.ready, 0),
        coalesce(j.scheduled, 0),
        coalesce(j.retrying, 0),
        coalesce(j.leased, 0),
        (select count(*) from queue_dead d where d.queue = n.name),
        coalesce((select s.paused from queue_setting s where s.queue = n.name), false),
        j.oldest_ready_at,
        j.next_due_at
    from (
        select queue_stats.queue as name where queue_stats.queue is not null
        union
        select s.queue from queue_setting s where queue_stats.queue is null
        union
        select d.queue from queue_dead d where queue_stats.queue is null
        union
        select a.queue from queue_job a where queue_stats.queue is null
    ) n
    left join (
        select
            a.queue,
            count(*) filter (where coalesce(greatest(a.ready_at, a.lease_until) <= v_now, true)) as ready,
            count(*) filter (where a.ready_at > v_now and a.receipt is null and a.attempts = 0) as scheduled,
            count(*) filter (where a.ready_at > v_now and a.receipt is null and a.attempts > 0) as retrying,
            count(*) filter (where a.lease_until > v_now) as leased,
            min(coalesce(a.ready_at, a.schedule_at, a.enqueued_at))
                filter (where coalesce(greatest(a.ready_at, a.lease_until) <= v_now, true)) as oldest_ready_at,
            min(greatest(a.ready_at, a.lease_until)) filter (where greatest(a.ready_at, a.lease_until) > v_now)
                as next_due_at
        from queue_job a
        where queue_stats.queue is null or a.queue = queue_stats.queue
        group by a.queue
    ) j on j.queue = n.name
    order by n.name;
end
$$;

comment on function queue_stats is $$
What is in a queue, or in all of them. All figures are exact, and the time grows with the
number of jobs.

**queue**: name of the queue; by default all queues that have jobs, dead jobs or settings.

Returns one row for each queue: **name**; **ready**, jobs that could be taken now;
**scheduled**, waiting for their time; **retrying**, waiting after a failed attempt;
**leased**, held by a consumer; **dead**; **paused**; **oldest_ready_at**, since when the job
that has waited longest could have been taken; **next_due_at**, when the next waiting job
comes due.

Errors: 22023 for a bad name.

    select * from queue_stats('apples');
$$;

revoke all on function queue_stats from public;
