create or replace function queue_wait(
    queue text
)
returns interval
language plpgsql
volatile
security definer
set search_path from current
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_sort = off
set jit = off
as $$
declare
    v_now timestamptz := clock_timestamp();
begin
    if octet_length(queue_wait.queue) between 1 and 255 is not true then
        perform _queue_refuse_name(queue_wait.queue);
    end if;
    if exists (select from queue_setting s where s.queue = queue_wait.queue and s.paused) then
        return null;
    end if;
    return least(
        (
            select j.ready_at
            from queue_job j
            where j.queue = queue_wait.queue and j.ready_at is not null and j.ready_at > v_now
            order by j.ready_at
            limit 1
        ),
        -- Leases that heartbeats have extended beyond the time they are found by.
        (
            select min(l.lease_until)
            from (
                select j.lease_until
                from queue_job j
                where j.queue = queue_wait.queue and j.ready_at is not null and j.ready_at <= v_now
                order by j.ready_at
                limit 100
            ) l
            where l.lease_until > v_now
        )
    ) - v_now;
end
$$;

comment on function queue_wait is $$
How long a consumer may sleep before the next waiting job of a queue comes due.

Meant for a consumer about to sleep: ask this, then `queue_get`, and only if that returned
nothing, sleep. Jobs that could be taken now don't count here (`queue_get` would have given
them; those that others hold must not keep a consumer awake).

**queue**: name of the queue.

Returns an interval above zero, or null if no job waits or the queue is paused: then
sleep until a notification (see `queue_channel`).

Errors: 22023 for a bad name.

    select queue_wait('apples');
$$;

revoke all on function queue_wait from public;
