create or replace function _queue_follow(
    queue text,
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
    v_name text := 'pgq_py.head_' || to_hex(hashtextextended(queue, 'queue_job'::regclass::oid::bigint));
    -- As _queue_claim and _queue_due have set them.
    v_head text[] := string_to_array(current_setting(v_name, true), ' ');
    v_due text[] := string_to_array(current_setting(replace(v_name, 'head', 'due'), true), ' ');
    v_until float8 := v_head[1];
    v_is_far boolean := v_head[2]::float8 > 0.001;
    v_before integer := 0;
    v_pages bigint;
    v_rows_pages bigint;
    v_ids bigint[] := '{}';
begin
    -- A clock that was put back must not make it last.
    if (extract(epoch from now) between v_until - 31 and v_until) is not true and now is not null
        or extract(epoch from now) >= v_due[1]::float8
    then
        return null;
    end if;
    if now is not null then
        v_pages := pg_stat_get_xact_blocks_fetched('queue_job'::regclass);
        if (
            select j.ready_at
            from queue_job j
            where j.queue = _queue_follow.queue and j.ready_at is not null
                and j.ready_at >= coalesce(v_due[2]::timestamptz, '-infinity')
                and j.ready_at <= _queue_follow.now
            order by j.ready_at
            limit 1
        ) is not null then
            return null;
        end if;
        if pg_stat_get_xact_blocks_fetched('queue_job'::regclass) - v_pages > 32 then
            -- The next need not walk over the jobs that came due, or were leased, and are gone.
            perform set_config(
                replace(v_name, 'head', 'due'),
                concat_ws(' ', coalesce(v_due[1], v_head[1]), to_jsonb(_queue_follow.now) #>> '{}'),
                false
            );
            v_head[6] := replace(v_head[6], 'near', 'due');
            perform set_config(v_name, array_to_string(v_head, ' '), false);
        end if;
    end if;
    -- A head that is far away is used for long. What ranks before it shall not wait, unless there
    -- too lie so many dead rows that looking costs too much.
    if v_is_far and v_head[6] <> 'f' then
        v_pages := pg_stat_get_xact_blocks_fetched('queue_job_ready_idx'::regclass);
        v_ids := array(
            select j.id
            from queue_job j
            where j.queue = _queue_follow.queue and j.ready_at is null and j.rank < v_head[3]::integer
            order by j.rank, j.expected_at, j.id
            limit _queue_follow.count
            for update skip locked
        );
        -- Not both as one comparison of rows: before PostgreSQL 18 that ends no scan but by its first column.
        if cardinality(v_ids) < _queue_follow.count then
            v_ids := v_ids || array(
                select j.id
                from queue_job j
                where j.queue = _queue_follow.queue and j.ready_at is null and j.rank = v_head[3]::integer
                    and j.expected_at < v_head[4]::timestamptz
                order by j.rank, j.expected_at, j.id
                limit _queue_follow.count - cardinality(v_ids)
                for update skip locked
            );
        end if;
        v_before := cardinality(v_ids);
        if pg_stat_get_xact_blocks_fetched('queue_job_ready_idx'::regclass) - v_pages > 32 + v_before / 4 then
            v_head[6] := 'f';
            perform set_config(v_name, array_to_string(v_head, ' '), false);
        elsif v_head[6] = 'far' then
            v_head[6] := 't';
            perform set_config(v_name, array_to_string(v_head, ' '), false);
        end if;
    end if;
    v_pages := pg_stat_get_xact_blocks_fetched('queue_job_ready_idx'::regclass);
    v_rows_pages := pg_stat_get_xact_blocks_fetched('queue_job'::regclass);
    select v_ids || array(
        select j.id
        from queue_job j
        where j.queue = _queue_follow.queue and j.ready_at is null
            and (j.rank, j.expected_at, j.id)
                >= (v_head[3]::integer, v_head[4]::timestamptz, v_head[5]::bigint)
        order by j.rank, j.expected_at, j.id
        limit _queue_follow.count - v_before
        for update skip locked
    )
    into v_ids
    where not exists (select from queue_setting s where s.queue = _queue_follow.queue and s.paused);
    if v_ids is null then
        return null;
    end if;
    if cardinality(v_ids) > v_before
        -- Entries that are known to be dead cost their page of the index, others a look at their row.
        and (
            pg_stat_get_xact_blocks_fetched('queue_job_ready_idx'::regclass) - v_pages > 5
            or pg_stat_get_xact_blocks_fetched('queue_job'::regclass) - v_rows_pages > 16 + 2 * cardinality(v_ids)
        )
    then
        -- On to the first of those: the next need not walk again over what lay before it.
        perform set_config(
            v_name,
            (
                select concat_ws(
                    ' ',
                    v_head[1],
                    v_head[2],
                    j.rank,
                    replace(to_jsonb(j.expected_at) #>> '{}', ' ', ''),
                    j.id,
                    v_head[6]
                )
                from queue_job j
                where j.queue = _queue_follow.queue and j.id = v_ids[v_before + 1]
            ),
            false
        );
    end if;
    -- Too few, and a look from the start costs next to nothing: that is what comes next.
    if cardinality(v_ids) < _queue_follow.count and not v_is_far then
        return null;
    end if;
    return v_ids;
end
$$;

comment on function _queue_follow is
    'Private: lock the first COUNT ready jobs from where the session remembers the head to be, and give their ids in order. Null where nothing is remembered, something has come due by NOW or the queue is paused. NOW is null for a caller who knows that the head is remembered, and has dealt with what is due.';

revoke all on function _queue_follow from public;
