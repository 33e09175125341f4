create or replace function queue_release(
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
    if octet_length(queue_release.queue) between 1 and 255 is not true then
        perform _queue_refuse_name(queue_release.queue);
    end if;
    if session_user <> current_user
        or current_setting('session_authorization') = ''
        or current_setting('role') <> 'none'
    then
        perform _queue_allow(queue_release.queue, 'get');
    end if;
    update queue_job j
    set ready_at = null, lease_until = null, receipt = null, consumer = null, attempts = j.attempts - 1
    where j.queue = queue_release.queue
        and j.id = queue_release.id
        and j.receipt = queue_release.receipt
        and j.lease_until > v_now;
    if not found then
        return false;
    end if;
    perform _queue_wake(queue_release.queue);
    return true;
end
$$;

comment on function queue_release is $$
Return a leased job to the queue, at once and as if it had not been taken: the attempt does
not count. For a consumer that is told to stop.

**queue**, **id**, **receipt**: as `queue_lease` gave them.

Returns false if the lease is no longer good. Then nothing was changed.

Errors: 22023 for a bad name.

    select queue_release('apples', 42, '3d3a1ad4-2a1f-4ba1-9e13-5a3fcb8b2fd0');
$$;

revoke all on function queue_release from public;
