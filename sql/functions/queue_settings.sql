create or replace function queue_settings(
    queue text
)
returns table (
    paused boolean,
    max_attempts integer,
    lease_for interval,
    retry_in interval,
    max_depth bigint,
    max_bytes integer,
    keep_dead_for interval
)
language plpgsql
volatile
security definer
set search_path from current
set enable_seqscan = off
as $$
#variable_conflict use_column
begin
    if octet_length(queue_settings.queue) between 1 and 255 is not true then
        perform _queue_refuse_name(queue_settings.queue);
    end if;
    if session_user <> current_user
        or current_setting('session_authorization') = ''
        or current_setting('role') <> 'none'
    then
        perform _queue_allow(queue_settings.queue, 'observe', 'manage');
    end if;
    return query
    select
        coalesce(s.paused, false),
        coalesce(s.max_attempts, 5),
        coalesce(s.lease_for, '5 minutes'),
        coalesce(s.retry_in, '10 seconds'),
        s.max_depth,
        s.max_bytes,
        s.keep_dead_for
    from (select) as always
    left join queue_setting s on s.queue = queue_settings.queue;
end
$$;

comment on function queue_settings is $$
The settings that hold for a queue, the defaults among them.

**queue**: name of the queue.

Returns one row: **paused**, and the settings as `queue_create` describes them; null is no
limit.

Errors: 22023 for a bad name.

    select * from queue_settings('apples');
$$;

revoke all on function queue_settings from public;
