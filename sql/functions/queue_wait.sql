create or replace function queue_wait(
    queue text
)
returns interval
language plpgsql
volatile
security definer
set search_path from current
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_sort = off
set jit = off
as $$
declare
    v_now timestamptz := clock_timestamp();
    v_unsettled text := current_setting('pgq_py.unsettled', true);
    v_before text[];
    v_again timestamptz;
    v_name text;
    v_head text[];
    v_due text[];
begin
    if octet_length(queue_wait.queue) between 1 and 255 is not true then
        perform _queue_refuse_name(queue_wait.queue);
    end if;
    if session_user <> current_user
        or current_setting('session_authorization') = ''
        or current_setting('role') <> 'none'
    then
        perform _queue_allow(queue_wait.queue, 'get', 'observe', 'manage');
    end if;
    -- Who put before this session began to listen, and has not committed, may not notify. None of them is left
    -- if nobody has the lock; or, where others have it all the time, if all transactions have ended that had a
    -- number when this session first looked. Those who look for sleepers have one, since they wrote before.
    if v_unsettled <> '' then
        v_before := regexp_match(v_unsettled, _queue_channel(queue) || ':([0-9]*)');
        if v_before is null then
            null;
        elsif position(_queue_channel(queue) || ':none' in current_setting('pgq_py.listening')) = 0
            and (
                pg_try_advisory_lock(_queue_class(), (hashtextextended(queue, 0) & 63)::integer)
                    and pg_advisory_unlock(_queue_class(), (hashtextextended(queue, 0) & 63)::integer)
                or pg_snapshot_xmin(pg_current_snapshot()) >= nullif(v_before[1], '')::xid8
            )
        then
            perform set_config(
                'pgq_py.unsettled',
                regexp_replace(v_unsettled, ' ?' || _queue_channel(queue) || ':[0-9]*', ''),
                false
            );
        else
            v_again := v_now + interval '20 ms';
            if v_before[1] = '' then
                perform set_config(
                    'pgq_py.unsettled',
                    regexp_replace(v_unsettled, _queue_channel(queue) || ':', E'\\&' || pg_current_xact_id()),
                    false
                );
            end if;
        end if;
    end if;
    if exists (select from queue_setting s where s.queue = queue_wait.queue and s.paused) then
        return v_again - v_now;
    end if;
    -- The session passes over some jobs until then: see _queue_claim and _queue_due.
    if current_setting('pgq_py.has_head', true) <> '' then
        v_name := 'pgq_py.head_' || to_hex(hashtextextended(queue, 'queue_job'::regclass::oid::bigint));
        v_head := string_to_array(current_setting(v_name, true), ' ');
        v_due := string_to_array(current_setting(replace(v_name, 'head', 'due'), true), ' ');
        if v_head[2]::float8 > 0.001 and to_timestamp(v_head[1]::float8) between v_now and v_now + interval '31 s' then
            v_again := least(v_again, to_timestamp(v_head[1]::float8));
        end if;
        if to_timestamp(v_due[1]::float8) between v_now and v_now + interval '31 s' then
            -- That may be in a millisecond, and so on for ever.
            v_again := least(v_again, greatest(to_timestamp(v_due[1]::float8), v_now + interval '100 ms'));
        end if;
    end if;
    return least(
        v_again,
        (
            select j.ready_at
            from queue_job j
            where j.queue = queue_wait.queue and j.ready_at is not null and j.ready_at > v_now
            order by j.ready_at
            limit 1
        ),
        -- Leases that heartbeats have extended beyond the time they are found by.
        (
            select min(l.lease_until)
            from (
                select j.lease_until
                from queue_job j
                where j.queue = queue_wait.queue and j.ready_at is not null and j.ready_at <= v_now
                order by j.ready_at
                limit 100
            ) l
            where l.lease_until > v_now
        )
    ) - v_now;
end
$$;

comment on function queue_wait is $$
How long a consumer may sleep before the next waiting job of a queue comes due.

Meant for a consumer about to sleep, after `queue_listen`: ask this, then `queue_get`, and only if
that returned nothing, sleep. Jobs that could be taken now don't count here (`queue_get` would have given
them; those that others hold must not keep a consumer awake).

**queue**: name of the queue.

Returns an interval above zero, or null if no job waits or the queue is paused: then
sleep until a notification. While a transaction is open that began to put before this session
listened, it is 20 milliseconds at most.

Errors: 22023 for a bad name.

    select queue_wait('apples');
$$;

revoke all on function queue_wait from public;
