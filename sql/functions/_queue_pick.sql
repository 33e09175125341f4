create or replace function _queue_pick(
    queue text,
    now timestamptz,
    count integer
)
returns bigint[]
language plpgsql
volatile
security definer
set search_path from current
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
as $$
declare
    v_ids bigint[] := '{}';
    v_window integer := count + 100;
    v_seen integer;
    v_id bigint;
begin
    -- The transaction may stay open for long, so no row is locked but those that are
    -- taken: candidates are read without locks, then locked one by one in their order.
    -- When others hold all of them, look further.
    loop
        v_seen := 0;
        for v_id in
            select c.id
            from (
                (
                    select j.id, j.rank, j.expected_at
                    from queue_job j
                    where j.queue = _queue_pick.queue and j.ready_at is null
                    order by j.rank, j.expected_at, j.id
                    limit v_window
                )
                union all
                (
                    select j.id, j.rank, j.expected_at
                    from queue_job j
                    where j.queue = _queue_pick.queue and j.ready_at is not null and j.ready_at <= _queue_pick.now
                    order by j.ready_at
                    limit v_window
                )
            ) c
            order by c.rank, c.expected_at, c.id
        loop
            v_seen := v_seen + 1;
            perform
            from queue_job j
            where j.queue = _queue_pick.queue and j.id = v_id and (j.ready_at is null or j.ready_at <= _queue_pick.now)
            for update skip locked;
            if found and v_id <> all (v_ids) then
                v_ids := v_ids || v_id;
                if cardinality(v_ids) = count then
                    return v_ids;
                end if;
            end if;
        end loop;
        exit when v_seen < v_window;
        v_window := v_window * 4;
    end loop;
    return v_ids;
end
$$;

comment on function _queue_pick is
    'Private: lock the best COUNT jobs among the ready and those that have come due, and nothing else. Gives their ids.';

revoke all on function _queue_pick from public;
