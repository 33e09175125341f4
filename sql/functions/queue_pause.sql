create or replace function queue_pause(
    queue text
)
returns boolean
language plpgsql
volatile
security definer
set search_path from current
as $$
#variable_conflict use_column
begin
    if octet_length(queue_pause.queue) between 1 and 255 is not true then
        perform _queue_refuse_name(queue_pause.queue);
    end if;
    if session_user <> current_user
        or current_setting('session_authorization') = ''
        or current_setting('role') <> 'none'
    then
        perform _queue_allow(queue_pause.queue, 'manage');
    end if;
    insert into queue_setting as s (queue, paused) values (queue_pause.queue, true)
    on conflict (queue) do update set paused = true where not s.paused;
    return found;
end
$$;

comment on function queue_pause is $$
Pause a queue: puts go on, but nothing can be taken until `queue_resume`.

Takes effect for takers that begin after the caller's transaction has committed. Jobs that
were taken before are not touched.

**queue**: name of the queue.

Returns true if the queue was not paused before.

Errors: 22023 for a bad name.

    select queue_pause('apples');
$$;

revoke all on function queue_pause from public;
