create or replace function queue_get(
    queue text,
    count integer default 1,
    promote boolean default false
)
returns table (
    id bigint,
    data jsonb,
    data_text text,
    data_bytes bytea,
    priority integer,
    enqueued_at timestamptz,
    schedule_at timestamptz,
    expected_at timestamptz,
    attempts integer,
    max_attempts integer,
    last_error text,
    progress_count bigint,
    consumer text,
    dedupe_key text,
    headers jsonb
)
language plpgsql
volatile
rows 1
security definer
set search_path from current
-- A plan made while the table was empty, or its statistics stale, would scan and sort all
-- of it for as long as the session keeps that plan; and a count unknown to the generic plan
-- would have each call planned anew (2,000 calls/s instead of 5,000).
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_sort = off
-- Before PostgreSQL 18 a sort that is off costs 1e10, and a plan that dear is compiled at
-- each call: 155 ms.
set jit = off
as $$
#variable_conflict use_column
declare
    v_now timestamptz := clock_timestamp();
    v_name text;
    v_head text[];
    v_is_brief boolean := false;
    v_due timestamptz;
    v_promoted bigint[];
    v_ids bigint[];
    v_id bigint;
begin
    if (
        octet_length(queue_get.queue) between 1 and 255
        and queue_get.count between 1 and 100000
        and (
            session_user = current_user
            and current_setting('session_authorization') <> ''
            and current_setting('role') = 'none'
            or _queue_may(queue_get.queue, 'get')
        )
    ) is not true then
        if octet_length(queue_get.queue) between 1 and 255 is not true then
            perform _queue_refuse_name(queue_get.queue);
        end if;
        if queue_get.count between 1 and 100000 is not true then
            perform _queue_refuse_count(queue_get.count);
        end if;
        perform _queue_allow(queue_get.queue, 'get');
    end if;

    if coalesce(current_setting('pgq_py.has_head', true), '') = '' then
        -- Not EXISTS for what is due: without an order it may be looked for among all jobs (4 ms).
        select array(
            select j.id
            from queue_job j
            where j.queue = queue_get.queue and j.ready_at is null
            order by j.rank, j.expected_at, j.id
            limit queue_get.count
            for update skip locked
        )
        into v_ids
        where not exists (select from queue_setting s where s.queue = queue_get.queue and s.paused)
            and (
                select j.ready_at
                from queue_job j
                where j.queue = queue_get.queue and j.ready_at is not null and j.ready_at <= v_now
                order by j.ready_at
                limit 1
            ) is null;
        -- Next time see whether dead rows lie before the head, and go around them.
        if clock_timestamp() - v_now > interval '0.3 ms' * (1 + queue_get.count / 25) then
            perform set_config('pgq_py.has_head', concat(extract(epoch from v_now) + 1, ' ', queue), false);
        end if;
    else
        v_name := 'pgq_py.head_' || to_hex(hashtextextended(queue, 'queue_job'::regclass::oid::bigint));
        v_head := string_to_array(current_setting(v_name, true), ' ');
        -- As _queue_follow, which takes half as much again and moves the head on.
        if random() > 0.1 then
            v_is_brief := extract(epoch from v_now) between v_head[1]::float8 - 31 and v_head[1]::float8 and (
                v_head[6] = 'near'
                or v_head[6] in ('t', 'f') and coalesce(current_setting(replace(v_name, 'head', 'due'), true), '') = ''
            );
            if v_is_brief and v_head[6] = 't' then
                -- As two, since before PostgreSQL 18 a comparison of rows ends no scan but by its first column.
                v_is_brief := coalesce(
                    (
                        select j.id
                        from queue_job j
                        where j.queue = queue_get.queue and j.ready_at is null and j.rank < v_head[3]::integer
                        order by j.rank, j.expected_at, j.id
                        limit 1
                    ),
                    (
                        select j.id
                        from queue_job j
                        where j.queue = queue_get.queue and j.ready_at is null and j.rank = v_head[3]::integer
                            and j.expected_at < v_head[4]::timestamptz
                        order by j.rank, j.expected_at, j.id
                        limit 1
                    )
                ) is null;
            end if;
        end if;
        if v_is_brief then
            select array(
                select j.id
                from queue_job j
                where j.queue = queue_get.queue and j.ready_at is null
                    and (j.rank, j.expected_at, j.id)
                        >= (v_head[3]::integer, v_head[4]::timestamptz, v_head[5]::bigint)
                order by j.rank, j.expected_at, j.id
                limit queue_get.count
                for update skip locked
            )
            into v_ids
            where not exists (select from queue_setting s where s.queue = queue_get.queue and s.paused)
                and (
                    select j.ready_at
                    from queue_job j
                    where j.queue = queue_get.queue and j.ready_at is not null and j.ready_at <= v_now
                    order by j.ready_at
                    limit 1
                ) is null;
            if cardinality(v_ids) < queue_get.count then
                v_ids := null;
            end if;
        end if;
        -- Whoever finds too few behind a near head looks from the start.
        if v_ids is null and v_head[6] is not null and (v_is_brief and v_head[6] = 'near') is not true then
            v_ids := _queue_follow(queue_get.queue, v_now, queue_get.count);
        end if;
    end if;
    if v_ids is null then
        if exists (select from queue_setting s where s.queue = queue_get.queue and s.paused) then
            return;
        end if;
        v_due := _queue_due(queue_get.queue, v_now);
        if v_due is not null and not queue_get.promote then
            v_ids := _queue_pick(queue_get.queue, v_due, v_now, queue_get.count);
        else
            if v_due is not null then
                -- Steps of a bounded size: 200,000 jobs that come due together must not make this
                -- call wait for all of them.
                v_promoted := _queue_promote(queue_get.queue, v_due, v_now, greatest(100, queue_get.count));
            end if;
            v_ids := _queue_claim(queue_get.queue, queue_get.count, v_promoted);
        end if;
    end if;

    if queue_get.count > 1 and _queue_has_sets() then
        return query
        with gone as (
            delete from queue_job j where j.queue = queue_get.queue and j.id = any (v_ids) returning j.*
        )
        select
            g.id,
            g.data,
            g.data_text,
            g.data_bytes,
            - g.rank,
            g.enqueued_at,
            g.schedule_at,
            nullif(g.expected_at, 'infinity'),
            g.attempts,
            g.max_attempts,
            g.last_error,
            g.progress_count,
            g.consumer,
            g.dedupe_key,
            g.headers
        from gone g
        order by g.rank, g.expected_at, g.id;
    else
        foreach v_id in array v_ids loop
            return query
            delete from queue_job j
            where j.queue = queue_get.queue and j.id = v_id
            returning
                j.id,
                j.data,
                j.data_text,
                j.data_bytes,
                - j.rank,
                j.enqueued_at,
                j.schedule_at,
                nullif(j.expected_at, 'infinity'),
                j.attempts,
                j.max_attempts,
                j.last_error,
                j.progress_count,
                j.consumer,
                j.dedupe_key,
                j.headers;
        end loop;
    end if;

    if v_ids[1] is not null then
        insert into queue_tally (queue, taken) values (queue_get.queue, cardinality(v_ids));
        if random() < 0.005 then
            perform _queue_fold(queue_get.queue);
        end if;
    end if;

    -- Takers that came by meanwhile could not see what was promoted here, and sleep.
    if v_promoted is not null then
        if exists (select unnest(v_promoted) except select unnest(v_ids)) then
            perform _queue_wake(queue_get.queue);
        end if;
    end if;
end
$$;

comment on function queue_get is $$
Take jobs out of a queue, in the caller's transaction.

The jobs leave the queue when the transaction commits; until then nobody else sees them,
and after a rollback, or when the connection is lost, it is as if they had never been
taken. What the caller writes in the same transaction stands or falls with that: each job
has exactly one effect. Made for short work; an open transaction holds back vacuum for the
whole server.

Jobs come in the order: higher priority, then earlier expected_at, then lower id. Jobs that
others hold are passed over. A paused queue gives none.

**queue**: name of the queue.
**count**: take up to this many, 1 by default.
**promote**: true only from a caller who commits at once. It also moves a bounded number of
other jobs that have come due to the ready ones, for all takers, and notifies the queue's
channel; they would be hidden for as long as the transaction stays open. Without it only the
jobs taken are touched. Either way, of more than about 100 jobs that come due at once, those
due first are considered first.

Returns one row for each job, none if there is nothing to take.

Errors: 22023 for a bad name or a count below 1 or above 100,000; 40001 above READ COMMITTED, where another
transaction took the job first: roll back and try again.

    select id, data from queue_get('apples');
$$;

revoke all on function queue_get from public;
