create or replace function _queue_promote(
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
    v_job record;
    v_id bigint;
    v_due bigint[];
    v_ids bigint[] := '{}';
    v_seen integer;
begin
    -- Again where a step met only leases that were extended and jobs that are now dead, but not
    -- so often that the caller would notice: the rest is left to the next one.
    for v_step in 1 .. 10 loop
        v_seen := 0;
        v_due := '{}';
        for v_job in
            select j.id, j.receipt, j.lease_until
            from queue_job j
            where j.queue = _queue_promote.queue
                and j.ready_at is not null
                and j.ready_at >= _queue_promote.since
                and j.ready_at <= _queue_promote.now
            order by j.ready_at
            limit _queue_promote.count
            for update skip locked
        loop
            v_seen := v_seen + 1;
            if v_job.lease_until > _queue_promote.now then
                -- Heartbeats move lease_until alone, which has no index.
                update queue_job j set ready_at = v_job.lease_until
                where j.queue = _queue_promote.queue and j.id = v_job.id;
            elsif v_job.receipt is null then
                v_due := v_due || v_job.id;
            elsif _queue_fail(_queue_promote.queue, v_job.id, 'the lease ran out', '0') then
                v_ids := v_ids || v_job.id;
            end if;
        end loop;
        if _queue_has_sets() then
            update queue_job j set ready_at = null
            where j.queue = _queue_promote.queue and j.id = any (v_due);
        else
            foreach v_id in array v_due loop
                update queue_job j set ready_at = null where j.queue = _queue_promote.queue and j.id = v_id;
            end loop;
        end if;
        v_ids := v_ids || v_due;
        exit when v_ids <> '{}' or v_seen < _queue_promote.count;
    end loop;
    return v_ids;
end
$$;

comment on function _queue_promote is
    'Private: move up to COUNT jobs that have come due, at SINCE or later, from the waiting to the ready, those due first, and give their ids. A lease that ran out is a failed attempt, and its job may be dead. All stay locked until the transaction ends: only for callers who commit at once.';

revoke all on function _queue_promote from public;
