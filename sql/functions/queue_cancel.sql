create or replace function queue_cancel(
    queue text,
    id bigint
)
returns boolean
language plpgsql
volatile
security definer
set search_path from current
set enable_seqscan = off
as $$
#variable_conflict use_column
begin
    if octet_length(queue_cancel.queue) between 1 and 255 is not true then
        perform _queue_refuse_name(queue_cancel.queue);
    end if;
    if session_user <> current_user
        or current_setting('session_authorization') = ''
        or current_setting('role') <> 'none'
    then
        perform _queue_allow(queue_cancel.queue, 'manage');
    end if;
    perform
    from queue_job j
    where j.queue = queue_cancel.queue and j.id = queue_cancel.id
    for update skip locked;
    if not found then
        return false;
    end if;
    delete from queue_job j where j.queue = queue_cancel.queue and j.id = queue_cancel.id;
    insert into queue_tally (queue, moved) values (queue_cancel.queue, -1);
    return true;
end
$$;

comment on function queue_cancel is $$
Remove a job from a queue. If it is leased, its consumer's receipt is no longer good.

**queue**, **id**: the job.

Returns true if the job was removed; false if there is no such job, or a transaction is
taking it at this moment (the call does not wait for that transaction's end).

Errors: 22023 for a bad name.

    select queue_cancel('apples', 42);
$$;

revoke all on function queue_cancel from public;
