create or replace function _queue_promote(
    queue text,
    now timestamptz,
    count integer
)
returns integer
language plpgsql
volatile
security definer
set search_path from current
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_sort = off
as $$
declare
    v_promoted integer;
begin
    with due as materialized (
        select j.id
        from queue_job j
        where j.queue = _queue_promote.queue and j.ready_at is not null and j.ready_at <= _queue_promote.now
        order by j.ready_at
        limit _queue_promote.count
        for update skip locked
    )
    update queue_job j
    set ready_at = null
    where j.queue = _queue_promote.queue and j.id = any (array(select due.id from due));
    get diagnostics v_promoted = row_count;
    return v_promoted;
end
$$;

comment on function _queue_promote is
    'Private: move up to COUNT jobs that have come due from the waiting to the ready, those due first. They stay locked until the transaction ends: only for callers who commit at once.';

revoke all on function _queue_promote from public;
