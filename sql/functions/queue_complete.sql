create or replace function queue_complete(
    queue text,
    id bigint,
    receipt uuid
)
returns boolean
language plpgsql
volatile
security definer
set search_path from current
set enable_seqscan = off
as $$
#variable_conflict use_column
declare
    v_now timestamptz := clock_timestamp();
begin
    if (
        octet_length(queue_complete.queue) between 1 and 255
        and (
            session_user = current_user
            and current_setting('session_authorization') <> ''
            and current_setting('role') = 'none'
            or _queue_may(queue_complete.queue, 'get')
        )
    ) is not true then
        if octet_length(queue_complete.queue) between 1 and 255 is not true then
            perform _queue_refuse_name(queue_complete.queue);
        end if;
        perform _queue_allow(queue_complete.queue, 'get');
    end if;
    delete from queue_job j
    where j.queue = queue_complete.queue
        and j.id = queue_complete.id
        and j.receipt = queue_complete.receipt
        and j.lease_until > v_now;
    if not found then
        return false;
    end if;
    insert into queue_tally (queue, taken, completed) values (queue_complete.queue, 1, 1);
    if random() < 0.005 then
        perform _queue_fold(queue_complete.queue);
    end if;
    return true;
end
$$;

comment on function queue_complete is $$
A leased job is done: remove it.

In the transaction that writes the job's result, the two stand or fall together: of two
consumers that both worked on the job, one has an effect.

**queue**, **id**, **receipt**: as `queue_lease` gave them.

Returns false if the lease is no longer good: it ran out, or the job was completed, returned,
failed or cancelled. Then somebody else may have the job, and nothing was changed.

Errors: 22023 for a bad name.

    select queue_complete('apples', 42, '3d3a1ad4-2a1f-4ba1-9e13-5a3fcb8b2fd0');
$$;

revoke all on function queue_complete from public;
