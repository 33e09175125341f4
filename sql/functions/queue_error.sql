create or replace function queue_error(
    queue text,
    id bigint,
    receipt uuid,
    message text default null,
    retry_in interval default null,
    bury boolean default false
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
    if octet_length(queue_error.queue) between 1 and 255 is not true then
        perform _queue_refuse_name(queue_error.queue);
    end if;
    if session_user <> current_user
        or current_setting('session_authorization') = ''
        or current_setting('role') <> 'none'
    then
        perform _queue_allow(queue_error.queue, 'get');
    end if;
    if queue_error.retry_in is not null then
        perform _queue_time('retry', null, queue_error.retry_in, v_now);
    end if;
    if queue_error.receipt is null then
        if not _queue_count_attempt(queue_error.queue, queue_error.id, v_now) then
            return false;
        end if;
    else
        perform
        from queue_job j
        where j.queue = queue_error.queue
            and j.id = queue_error.id
            and j.receipt = queue_error.receipt
            and j.lease_until > v_now
        for update;
        if not found then
            return false;
        end if;
    end if;
    if _queue_fail(queue_error.queue, queue_error.id, queue_error.message, queue_error.retry_in, queue_error.bury) then
        -- It comes due earlier than its lease ended, which is what sleepers reckon with.
        perform _queue_wake(queue_error.queue);
    end if;
    return true;
end
$$;

comment on function queue_error is $$
An attempt at a job has failed: keep the message, and put the job back after a pause, or
among the dead if its attempts are used up.

**queue**, **id**, **receipt**: as `queue_lease` gave them. The receipt is null for a job
that was taken with `queue_get`, after the rollback that returned it: that attempt is counted
now. If somebody else is working on it by then, this waits for a second at most.
**message**: why; the last 2,000 characters are kept, in `last_error` and with each attempt.
**retry_in**: how long until it may be taken again, zero for at once. By default as the queue
says (`queue_create`), or 10 seconds, doubled with each attempt up to six hours, times a
random number between a half and one and a half.
**bury**: true puts it among the dead whatever its attempts: for a job that can never succeed.
The reason of a dead job is the last line of the message.

Returns false if the lease is no longer good, or, without a receipt, if the job is not there
or is held by somebody else. Then nothing was changed.

Errors: 22023 for a bad name; 22008 for a pause that ends after the year 9999.

    select queue_error('apples', 42, '3d3a1ad4-2a1f-4ba1-9e13-5a3fcb8b2fd0', 'a worm', retry_in => '1 hour');
$$;

revoke all on function queue_error from public;
