create or replace function _queue_due(
    queue text,
    now timestamptz
)
returns timestamptz
language plpgsql
volatile
set search_path from current
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_sort = off
set jit = off
as $$
declare
    v_begin timestamptz := clock_timestamp();
    -- What the session remembers: until when, and before which time nothing is left that is due.
    v_name text := 'pgq_py.due_' || to_hex(hashtextextended(queue, 'queue_job'::regclass::oid::bigint));
    v_mark text[] := string_to_array(current_setting(v_name, true), ' ');
    v_until float8 := v_mark[1];
    v_from timestamptz := '-infinity';
    v_due timestamptz;
    -- Those of the table, too: thousands of jobs that were due at the same time share a few pages of the index.
    v_pages bigint := pg_stat_get_xact_blocks_fetched('queue_job_waiting_idx'::regclass)
        + pg_stat_get_xact_blocks_fetched('queue_job'::regclass);
begin
    if extract(epoch from v_begin) between v_until - 31 and v_until then
        v_from := v_mark[2];
    end if;
    v_due := (
        select j.ready_at
        from queue_job j
        where j.queue = _queue_due.queue
            and j.ready_at is not null
            and j.ready_at >= v_from
            and j.ready_at <= _queue_due.now
        order by j.ready_at
        limit 1
    );
    v_pages := pg_stat_get_xact_blocks_fetched('queue_job_waiting_idx'::regclass)
        + pg_stat_get_xact_blocks_fetched('queue_job'::regclass) - v_pages;
    if v_pages > 32 then
        if v_from = '-infinity' then
            v_until := extract(epoch from v_begin)
                + least(greatest(20 * extract(epoch from clock_timestamp() - v_begin), 0.1), 30);
        end if;
        perform set_config(
            v_name, concat_ws(' ', v_until, to_jsonb(coalesce(v_due, _queue_due.now)) #>> '{}'), false
        );
        -- As in _queue_claim.
        perform set_config('pgq_py.has_head', concat(extract(epoch from v_begin) + 31, ' ', queue), false);
    elsif v_from = '-infinity' and v_until is not null then
        perform set_config(v_name, '', false);
    end if;
    return v_due;
end
$$;

comment on function _queue_due is
    'Private: when the first of the jobs that have come due did so, null if none has. As in _queue_claim the session remembers where dead rows end, and looks again from the very start after 20 times what that took, at least 0.1 s and at most 30.';

revoke all on function _queue_due from public;
