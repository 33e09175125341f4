create or replace function _queue_next(
    queues text[],
    first integer
)
returns integer
language plpgsql
volatile
set search_path from current
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_sort = off
set jit = off
as $$
declare
    v_now timestamptz := clock_timestamp();
    v_has_heads boolean := coalesce(current_setting('pgq_py.has_head', true), '') <> '';
    v_pages bigint := pg_stat_get_xact_blocks_fetched('queue_job_ready_idx'::regclass)
        + pg_stat_get_xact_blocks_fetched('queue_job_waiting_idx'::regclass);
    v_rows_pages bigint := pg_stat_get_xact_blocks_fetched('queue_job'::regclass);
    v_asked float8 := nullif(current_setting('pgq_py.asked_each', true), '');
    v_next integer;
begin
    -- Unnest gives the names in their order; asked for it, the database would look into all queues before it sorts.
    select n.place + _queue_next.first - 1
    into v_next
    from unnest(queues[_queue_next.first:]) with ordinality n (name, place)
    where octet_length(n.name) between 1 and 255 is not true
        -- Dead rows lie before its head: it goes around them itself.
        or v_has_heads
        and (
            select concat(current_setting('pgq_py.head_' || h.key, true), current_setting('pgq_py.due_' || h.key, true))
            from to_hex(hashtextextended(n.name, 'queue_job'::regclass::oid::bigint)) as h (key)
        ) <> ''
        or (
            select j.id
            from queue_job j
            where j.queue = n.name and j.ready_at is null
            order by j.rank, j.expected_at, j.id
            limit 1
        ) is not null
        or (
            select j.ready_at
            from queue_job j
            where j.queue = n.name and j.ready_at is not null and j.ready_at <= v_now
            order by j.ready_at
            limit 1
        ) is not null
    limit 1;
    -- Of a queue without jobs no row is looked at, unless it is dead.
    if pg_stat_get_xact_blocks_fetched('queue_job'::regclass) - v_rows_pages > 64
        or pg_stat_get_xact_blocks_fetched('queue_job_ready_idx'::regclass)
        + pg_stat_get_xact_blocks_fetched('queue_job_waiting_idx'::regclass) - v_pages
        > 64 + 16 * (coalesce(v_next, cardinality(queues)) - _queue_next.first)
    then
        if not v_has_heads then
            -- As in queue_get, but of no queue that could take it back.
            perform set_config('pgq_py.has_head', concat(extract(epoch from v_now) + 1, ' '), false);
        end if;
        -- Each that is asked now remembers its head, if it is worth it. If none is, once in a second is enough.
        if extract(epoch from v_now) - v_asked between 0 and 1 is not true then
            perform set_config('pgq_py.asked_each', extract(epoch from v_now)::text, false);
            return 0;
        end if;
    end if;
    return v_next;
end
$$;

comment on function _queue_next is
    'Private: the place of the first of QUEUES, from place FIRST on, that may have a job to take, or a bad name; null if none has; 0 if dead rows make it cheaper to ask each. Where they don''t this is much the cheaper.';

revoke all on function _queue_next from public;
