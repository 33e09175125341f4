create or replace function _queue_pick(
    queue text,
    since timestamptz,
    now timestamptz,
    count integer
)
returns bigint[]
language plpgsql
volatile
set search_path from current
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_sort = off
set jit = off
as $$
declare
    v_ids bigint[] := '{}';
    v_window bigint := count::bigint + 100;
    v_again boolean := false;
    v_ready bigint;
    v_due bigint;
    v_job record;
    v_receipt uuid;
begin
    -- The transaction may stay open for long, so no row is locked but those that are
    -- taken: candidates are read without locks, then locked one by one in their order.
    -- When others hold so many of them that too few are left, look further.
    loop
        v_ready := 0;
        v_due := 0;
        for v_job in
            select c.id, c.is_ready
            from (
                (
                    select j.id, j.rank, j.expected_at, true as is_ready
                    from queue_job j
                    where j.queue = _queue_pick.queue and j.ready_at is null
                    order by j.rank, j.expected_at, j.id
                    limit v_window
                )
                union all
                (
                    select j.id, j.rank, j.expected_at, false
                    from queue_job j
                    where j.queue = _queue_pick.queue
                        and j.ready_at is not null
                        and j.ready_at >= _queue_pick.since
                        and j.ready_at <= _queue_pick.now
                        and (j.lease_until is null or j.lease_until <= _queue_pick.now)
                    order by j.ready_at
                    limit v_window
                )
            ) c
            order by c.rank, c.expected_at, c.id
        loop
            if v_job.is_ready then
                v_ready := v_ready + 1;
            else
                v_due := v_due + 1;
            end if;
            continue when v_again and v_job.id = any (v_ids);
            select j.receipt
            into v_receipt
            from queue_job j
            where j.queue = _queue_pick.queue and j.id = v_job.id
                and (j.ready_at is null or j.ready_at <= _queue_pick.now)
                and (j.lease_until is null or j.lease_until <= _queue_pick.now)
            for update skip locked;
            if not found then
                null;  -- others hold it
            elsif v_receipt is null or _queue_fail(_queue_pick.queue, v_job.id, 'the lease ran out', '0') then
                v_ids := v_ids || v_job.id;
                if cardinality(v_ids) = count then
                    return v_ids;
                end if;
            end if;
            -- Behind the last ready job that was read there may be others that come before
            -- the rest of the due.
            exit when v_ready = v_window;
        end loop;
        exit when v_ready < v_window and v_due < v_window;
        v_window := v_window * 4;
        v_again := true;
    end loop;
    return v_ids;
end
$$;

comment on function _queue_pick is
    'Private: lock the best COUNT jobs among the ready and those that have come due, at SINCE or later, and nothing else. Gives their ids.';

revoke all on function _queue_pick from public;
