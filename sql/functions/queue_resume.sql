create or replace function queue_resume(
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
    if octet_length(queue_resume.queue) between 1 and 255 is not true then
        perform _queue_refuse_name(queue_resume.queue);
    end if;
    if session_user <> current_user
        or current_setting('session_authorization') = ''
        or current_setting('role') <> 'none'
    then
        perform _queue_allow(queue_resume.queue, 'manage');
    end if;
    update queue_setting s set paused = false where s.queue = queue_resume.queue and s.paused;
    if not found then
        return false;
    end if;
    perform _queue_wake(queue_resume.queue);
    return true;
end
$$;

comment on function queue_resume is $$
End the pause of a queue and wake the consumers that sleep on it.

**queue**: name of the queue.

Returns true if the queue was paused.

Errors: 22023 for a bad name.

    select queue_resume('apples');
$$;

revoke all on function queue_resume from public;
