create or replace function queue_export(
    queue text,
    after bigint default null,
    count integer default 1000,
    dead boolean default false,
    take boolean default false
)
returns table (
    id bigint,
    job jsonb,
    data jsonb,
    data_text text,
    data_bytes bytea
)
language plpgsql
volatile
security definer
set search_path from current
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_sort = off
set jit = off
as $$
#variable_conflict use_column
declare
    v_now timestamptz := clock_timestamp();
    v_left integer := queue_export.count;
    v_ids bigint[];
    v_taken integer := 0;
    v_rows integer;
begin
    if octet_length(queue_export.queue) between 1 and 255 is not true then
        perform _queue_refuse_name(queue_export.queue);
    end if;
    if session_user <> current_user
        or current_setting('session_authorization') = ''
        or current_setting('role') <> 'none'
    then
        if queue_export.take then
            perform _queue_allow(queue_export.queue, 'manage');
        else
            perform _queue_allow(queue_export.queue, 'observe', 'manage');
        end if;
    end if;
    if queue_export.count between 1 and 100000 is not true then
        perform _queue_refuse_count(queue_export.count);
    end if;

    after := coalesce(after, '-9223372036854775808');
    -- In steps, as in queue_clear: before PostgreSQL 17 each row is looked for in the whole array. What others have
    -- removed since the ids were read does not count: nothing at all would say that there is no more.
    loop
        if queue_export.dead then
            if queue_export.take then
                v_ids := array(
                    select d.id
                    from queue_dead d
                    where d.queue = queue_export.queue
                        and d.id > queue_export.after
                    order by d.id
                    limit least(v_left, 1000)
                    for update skip locked
                );
            else
                v_ids := array(
                    select d.id
                    from queue_dead d
                    where d.queue = queue_export.queue
                        and d.id > queue_export.after
                    order by d.id
                    limit least(v_left, 1000)
                );
            end if;
            exit when cardinality(v_ids) = 0;
            return query
            select
                d.id,
                -- Not what is inside of headers and history: a null may be somebody's.
                jsonb_strip_nulls(jsonb_build_object(
                    'id', d.id, 'died_at', d.died_at, 'reason', d.reason, 'priority', d.priority,
                    'enqueued_at', d.enqueued_at, 'schedule_at', d.schedule_at, 'expected_at', d.expected_at,
                    'attempts', d.attempts, 'max_attempts', d.max_attempts, 'last_error', d.last_error,
                    'progress_count', d.progress_count, 'consumer', d.consumer, 'dedupe_key', d.dedupe_key
                ))
                || case when d.headers is null then '{}' else jsonb_build_object('headers', d.headers) end
                || case when d.history is null then '{}' else jsonb_build_object('history', d.history) end,
                d.data, d.data_text, d.data_bytes
            from queue_dead d
            where d.queue = queue_export.queue
                and d.id > queue_export.after
                and d.id <= v_ids[cardinality(v_ids)]
                and d.id = any (v_ids)
            order by d.id;
            get diagnostics v_rows = row_count;
            v_left := v_left - v_rows;
            if queue_export.take then
                delete from queue_dead d
                where d.queue = queue_export.queue
                    and d.id > queue_export.after
                    and d.id <= v_ids[cardinality(v_ids)]
                    and d.id = any (v_ids);
                v_taken := v_taken + v_rows;
            end if;
        else
            if queue_export.take then
                v_ids := array(
                    select j.id
                    from queue_job j
                    where j.queue = queue_export.queue
                        and j.id > queue_export.after
                        -- A lease that runs is somebody's: the job may be done at this moment.
                        and (j.receipt is null or greatest(j.ready_at, j.lease_until) > v_now is not true)
                    order by j.id
                    limit least(v_left, 1000)
                    for update skip locked
                );
            else
                v_ids := array(
                    select j.id
                    from queue_job j
                    where j.queue = queue_export.queue
                        and j.id > queue_export.after
                    order by j.id
                    limit least(v_left, 1000)
                );
            end if;
            exit when cardinality(v_ids) = 0;
            return query
            select
                j.id,
                jsonb_strip_nulls(jsonb_build_object(
                    'id', j.id, 'priority', - j.rank, 'enqueued_at', j.enqueued_at, 'schedule_at', j.schedule_at,
                    'expected_at', nullif(j.expected_at, 'infinity'), 'ready_at', greatest(j.ready_at, j.lease_until),
                    'attempts', j.attempts, 'max_attempts', j.max_attempts, 'last_error', j.last_error,
                    'progress_count', j.progress_count, 'consumer', j.consumer, 'dedupe_key', j.dedupe_key
                ))
                || case when j.headers is null then '{}' else jsonb_build_object('headers', j.headers) end
                || case when j.history is null then '{}' else jsonb_build_object('history', j.history) end,
                j.data, j.data_text, j.data_bytes
            from queue_job j
            where j.queue = queue_export.queue
                and j.id > queue_export.after
                and j.id <= v_ids[cardinality(v_ids)]
                and j.id = any (v_ids)
            order by j.id;
            get diagnostics v_rows = row_count;
            v_left := v_left - v_rows;
            if queue_export.take then
                delete from queue_job j
                where j.queue = queue_export.queue
                    and j.id > queue_export.after
                    and j.id <= v_ids[cardinality(v_ids)]
                    and j.id = any (v_ids);
                v_taken := v_taken + v_rows;
            end if;
        end if;
        after := v_ids[cardinality(v_ids)];
    end loop;
    if v_taken > 0 then
        insert into queue_tally (queue, moved, dead)
        values (
            queue_export.queue,
            case when not queue_export.dead then - v_taken end,
            case when queue_export.dead then - v_taken end
        );
    end if;
end
$$;

comment on function queue_export is $$
Read the jobs of a queue with all that is kept of them, for `queue_import` in another database; with
**take**, remove them in the same transaction.

A page at a time, in the order of the ids: call it again with the last id as **after**, until it gives
nothing. In one transaction of REPEATABLE READ all pages show the same moment.

**queue**: name of the queue.
**after**: only jobs with a higher id; null begins at the first.
**count**: this many at most.
**dead**: true reads the dead jobs instead of those in the queue.
**take**: true also removes the jobs, when the transaction commits. Left where they are: jobs that a consumer
holds under a lease, and those that another transaction is taking at this moment.

Returns a row for each job: its **id**; **job**, an object of its fields (those that are null are left out), with
the failed attempts in `history`, and in `ready_at` when a waiting job comes due; and its data, in the one of
**data**, **data_text** and **data_bytes** that holds it.

A job that is leased comes due when its lease ends. Its consumer may complete it meanwhile: to move a queue, pause
it, let the leases end, and take.

Errors: 22023 for a bad name or a count below 1 or above 100,000.

    select id, job, data from queue_export('apples');
    select id, job, data from queue_export('apples', dead => true, take => true);
$$;

revoke all on function queue_export from public;
