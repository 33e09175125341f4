create or replace function _queue_count_attempt(
    queue text,
    id bigint,
    now timestamptz
)
returns boolean
language plpgsql
volatile
set search_path from current
set enable_seqscan = off
-- The next taker may have the job already, and keep its transaction open.
set lock_timeout = '1s'
as $$
#variable_conflict use_column
declare
    v_ran_out boolean;
begin
    select j.receipt is not null
    into v_ran_out
    from queue_job j
    where j.queue = _queue_count_attempt.queue
        and j.id = _queue_count_attempt.id
        and (j.receipt is null or j.lease_until <= _queue_count_attempt.now)
        -- Nobody has taken what is scheduled for later.
        and (j.ready_at is null or j.ready_at <= _queue_count_attempt.now or j.attempts > 0)
    for update;
    if not found then
        return false;
    end if;
    -- A lease that ran out before is a failed attempt of its own.
    if v_ran_out and not _queue_fail(_queue_count_attempt.queue, _queue_count_attempt.id, 'the lease ran out', '0') then
        return false;
    end if;
    update queue_job j
    set attempts = j.attempts + 1, consumer = null
    where j.queue = _queue_count_attempt.queue and j.id = _queue_count_attempt.id;
    return true;
exception
    when lock_not_available then
        return false;
end
$$;

comment on function _queue_count_attempt is
    'Private: count an attempt that was made in a transaction and rolled back. False if the job is not there, is leased, or is held by a transaction for longer than a second.';

revoke all on function _queue_count_attempt from public;
