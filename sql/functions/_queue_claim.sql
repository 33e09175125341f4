create or replace function _queue_claim(
    queue text,
    count integer,
    promoted bigint[]
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
    v_begin timestamptz := clock_timestamp();
    -- The same queue of another installation in this database has another name.
    v_name text := 'pgq_py.head_' || to_hex(hashtextextended(queue, 'queue_job'::regclass::oid::bigint));
    -- What the session remembers: until when, what the look from the start took, where the head
    -- was, and what else is looked for: what ranks before it (t or f; far: not known yet), or what has come due,
    -- from where that is remembered to begin (due), or nothing (near).
    v_head text[] := string_to_array(current_setting(v_name, true), ' ');
    v_until float8 := v_head[1];
    v_cost float8 := v_head[2];
    v_last bigint := pg_sequence_last_value('queue_job_id_seq'::regclass);
    v_pages bigint := pg_stat_get_xact_blocks_fetched('queue_job_ready_idx'::regclass);
    v_due text := coalesce(current_setting(replace(v_name, 'head', 'due'), true), '');
    -- Until when, and which queue says so.
    v_flag text := nullif(current_setting('pgq_py.has_head', true), '');
    v_ids bigint[];
    v_found record;
begin
    -- The head is far away, and something has come due: the best of both.
    if v_cost > 0.001 and extract(epoch from v_begin) between v_until - 31 and v_until then
        v_ids := promoted || _queue_follow(queue, null, count);
        return array(
            select u.id
            from (select distinct unnest(v_ids) as id) u
            cross join lateral (
                select j.rank, j.expected_at
                from queue_job j
                where j.queue = _queue_claim.queue and j.id = u.id
                limit 1
            ) j
            order by j.rank, j.expected_at, u.id
            limit _queue_claim.count
        );
    end if;
    select array_agg(c.id) as ids, (array_agg(c.rank))[1] as rank, (array_agg(c.expected_at))[1] as expected_at
    into v_found
    from (
        select j.id, j.rank, j.expected_at
        from queue_job j
        where j.queue = _queue_claim.queue and j.ready_at is null
        order by j.rank, j.expected_at, j.id
        limit _queue_claim.count
        for update skip locked
    ) c;
    v_cost := extract(epoch from clock_timestamp() - v_begin);
    -- What goes around the dead rows costs as much as some 0.1 ms among them. The pages are not those that
    -- the jobs lie in.
    if v_cost > 0.0001
        and pg_stat_get_xact_blocks_fetched('queue_job_ready_idx'::regclass) - v_pages
            > 64 + coalesce(cardinality(v_found.ids), 0) / 4
    then
        perform set_config(
            v_name,
            concat_ws(
                ' ',
                extract(epoch from v_begin) + v_cost + least(greatest(20 * v_cost, 0.1), 30),
                v_cost,
                -- Nothing there: what is put from now on has a higher id.
                coalesce(v_found.rank, 0),
                -- As text that any DateStyle reads, without spaces: a year before Christ has one.
                replace(to_jsonb(coalesce(v_found.expected_at, 'infinity')) #>> '{}', ' ', ''),
                coalesce(v_found.ids[1], v_last, 0),
                case when v_cost > 0.001 then 'far' when v_due <> '' then 'due' else 'near' end
            ),
            false
        );
        -- For longer than any head is remembered the session's calls go around dead rows, on all its queues.
        perform set_config('pgq_py.has_head', concat(extract(epoch from v_begin) + 31, ' ', queue), false);
    else
        if v_head <> '{}' then
            perform set_config(v_name, '', false);
        end if;
        if split_part(v_flag, ' ', 1)::float8 < extract(epoch from v_begin)
            or substr(v_flag, position(' ' in v_flag) + 1) = queue
            and v_due = ''
        then
            perform set_config('pgq_py.has_head', '', false);
        end if;
    end if;
    return coalesce(v_found.ids, '{}');
end
$$;

comment on function _queue_claim is
    'Private: lock the first COUNT ready jobs and give their ids in order. Where the dead rows of jobs that were taken lie before them (vacuum has not come by, or an old snapshot keeps them), the session remembers where the head was, and looks again from the very start after 20 times what that took, at least 0.1 s and at most 30. For so long it passes over a job that comes back before the head, with the head''s own priority and expected_at. PROMOTED are ids that the caller has just made ready.';

revoke all on function _queue_claim from public;
