create or replace function queue_count(
    queue text,
    scheduled boolean default false
)
returns bigint
language plpgsql
volatile
security definer
set search_path from current
as $$
declare
    v_now timestamptz := clock_timestamp();
begin
    if octet_length(queue_count.queue) between 1 and 255 is not true then
        perform _queue_refuse_name(queue_count.queue);
    end if;
    if session_user <> current_user
        or current_setting('session_authorization') = ''
        or current_setting('role') <> 'none'
    then
        perform _queue_allow(queue_count.queue, 'observe', 'manage');
    end if;
    if queue_count.scheduled then
        return (select count(*) from queue_job j where j.queue = queue_count.queue);
    end if;
    -- Two counts, so that each can walk its own index.
    return (
        select count(*) from queue_job j where j.queue = queue_count.queue and j.ready_at is null
    ) + (
        select count(*)
        from queue_job j
        where j.queue = queue_count.queue
            and j.ready_at is not null
            and j.ready_at <= v_now
            and (j.lease_until is null or j.lease_until <= v_now)
    );
end
$$;

comment on function queue_count is $$
Count the jobs of a queue, exactly; the time grows with the number.

**queue**: name of the queue.
**scheduled**: false counts the jobs that could be taken now, true also those that wait:
scheduled, backing off after an error, or leased.

Returns the number. Jobs that a transaction is taking at this moment still count.

Errors: 22023 for a bad name.

    select queue_count('apples');
$$;

revoke all on function queue_count from public;
