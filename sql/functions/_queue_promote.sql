create or replace function _queue_promote(
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
set enable_sort = off
set jit = off
as $$
declare
    v_ids bigint[];
    v_id bigint;
begin
    v_ids := array(
        select j.id
        from queue_job j
        where j.queue = _queue_promote.queue and j.ready_at is not null and j.ready_at <= _queue_promote.now
        order by j.ready_at
        limit _queue_promote.count
        for update skip locked
    );
    -- One by one, for the reason given in queue_get.
    foreach v_id in array v_ids loop
        update queue_job j set ready_at = null where j.queue = _queue_promote.queue and j.id = v_id;
    end loop;
    return v_ids;
end
$$;

comment on function _queue_promote is
    'Private: move up to COUNT jobs that have come due from the waiting to the ready, those due first, and give their ids. They stay locked until the transaction ends: only for callers who commit at once.';

revoke all on function _queue_promote from public;
