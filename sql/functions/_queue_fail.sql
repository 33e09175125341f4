create or replace function _queue_fail(
    queue text,
    id bigint,
    error text,
    retry_in interval default null,
    bury boolean default false
)
returns boolean
language plpgsql
volatile
set search_path from current
set enable_seqscan = off
as $$
#variable_conflict use_column
declare
    v_now timestamptz := clock_timestamp();
    v_job record;
    -- The end of a long one: a traceback says there what was raised.
    v_error text := right(coalesce(error, 'no reason was given'), 2000);
    -- For the eye: of a traceback the last line, which says what was raised.
    v_reason text := (regexp_match(v_error, E'([^\n]*)[[:space:]]*$'))[1];
    v_history jsonb;
    v_max_attempts integer;
    v_retry_in interval := retry_in;
begin
    select
        j.attempts, j.consumer, j.history, j.max_attempts,
        s.max_attempts as queue_max_attempts, s.retry_in as queue_retry_in
    into strict v_job
    from queue_job j
    left join queue_setting s on s.queue = _queue_fail.queue
    where j.queue = _queue_fail.queue and j.id = _queue_fail.id;

    v_history := coalesce(v_job.history, '[]') || jsonb_build_object(
        'attempt', v_job.attempts, 'at', v_now, 'consumer', v_job.consumer, 'error', v_error
    );
    -- A job that may be tried very often keeps its last attempts: the row is copied each time.
    if jsonb_array_length(v_history) > 50 then
        v_history := v_history - 0;
    end if;

    v_max_attempts := coalesce(v_job.max_attempts, v_job.queue_max_attempts, 5);
    if _queue_fail.bury or v_job.attempts >= v_max_attempts then
        delete from queue_dead d where d.queue = _queue_fail.queue and d.id = _queue_fail.id;
        insert into queue_tally (queue, taken, failed, moved, dead, died)
        values (_queue_fail.queue, 1, 1, -1, case when found then 0 else 1 end, case when found then 0 else 1 end);
        with gone as (
            delete from queue_job j where j.queue = _queue_fail.queue and j.id = _queue_fail.id returning j.*
        )
        insert into queue_dead (
            queue, id, died_at, reason, data, data_text, data_bytes, priority, enqueued_at, schedule_at,
            expected_at, attempts, max_attempts, last_error, progress_count, consumer, dedupe_key, headers, history
        )
        select
            g.queue,
            g.id,
            v_now,
            case
                when _queue_fail.bury then v_reason
                else format('attempt %s of %s failed: %s', g.attempts, v_max_attempts, v_reason)
            end,
            g.data, g.data_text, g.data_bytes, - g.rank, g.enqueued_at, g.schedule_at,
            nullif(g.expected_at, 'infinity'), g.attempts, g.max_attempts, v_error, g.progress_count,
            g.consumer, g.dedupe_key, g.headers, v_history
        from gone g;
        return false;
    end if;

    if v_retry_in is null then
        -- Doubled with each attempt, up to six hours; the jitter (half to one and a half of it)
        -- keeps jobs that failed together from coming back together.
        v_retry_in := least(
            coalesce(v_job.queue_retry_in, '10 seconds') * power(2, least(greatest(v_job.attempts, 1), 16) - 1),
            greatest(v_job.queue_retry_in, '6 hours')
        ) * (0.5 + random());
    end if;
    update queue_job j
    set ready_at = case when v_retry_in > interval '0' then v_now + v_retry_in end,
        receipt = null,
        lease_until = null,
        last_error = v_error,
        history = v_history
    where j.queue = _queue_fail.queue and j.id = _queue_fail.id;
    insert into queue_tally (queue, taken, failed) values (_queue_fail.queue, 1, 1);
    return true;
end
$$;

comment on function _queue_fail is
    'Private: an attempt of a job, whose row the caller has locked, has failed. True: it is back in the queue, after RETRY_IN or the queue''s backoff. False: it is among the dead, because its attempts are used up or BURY says so.';

revoke all on function _queue_fail from public;
