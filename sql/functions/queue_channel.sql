create or replace function queue_channel(
    queue text
)
returns text
language plpgsql
volatile
security definer
set search_path from current
as $$
begin
    if octet_length(queue) between 1 and 255 is not true then
        perform _queue_refuse_name(queue);
    end if;
    if session_user <> current_user
        or current_setting('session_authorization') = ''
        or current_setting('role') <> 'none'
    then
        perform _queue_allow(queue, 'get');
    end if;
    return _queue_channel(queue);
end
$$;

comment on function queue_channel is $$
The channel on which a session that called `queue_listen` is notified of jobs.

The payload of a notification is empty. The name is made from the schema and the queue by a hash;
two queues that share one cause needless wake-ups, nothing else. It may differ between servers.

**queue**: name of the queue.

Returns the name, 63 bytes at most.

Errors: 22023 for a bad name.

    select queue_channel('apples');
$$;

revoke all on function queue_channel from public;
