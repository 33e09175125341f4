create or replace function queue_import(
    queue text,
    jobs jsonb[],
    data jsonb[],
    data_text text[] default null,
    data_bytes bytea[] default null,
    append boolean default false
)
returns table (
    id bigint,
    is_new boolean
)
language plpgsql
volatile
security definer
set search_path from current
set enable_seqscan = off
as $$
#variable_conflict use_column
declare
    v_now timestamptz := clock_timestamp();
    v_size integer := coalesce(cardinality(jobs), 0);
    v_new_ids bigint[];
    v_ids bigint[];
    v_wrong text;
    -- An entry of a history that is none of queue_export's: `at` is text there that every language can read.
    v_odd jsonpath := $path$
        $.history[*].type() != "object" || exists($.history[*] ? (!(
            @.attempt.type() == "number"
            && @.at.type() == "string"
            && @.at like_regex "^\\d{4}-\\d\\d-\\d\\dT([01]\\d|2[0-3])(:[0-5]\\d){2}(\\.\\d+)?[+-]\\d\\d(:\\d\\d){1,2}$"
            && (!exists(@.consumer) || @.consumer.type() == "null" || @.consumer.type() == "string")
            && (!exists(@.error) || @.error.type() == "null" || @.error.type() == "string")
        )))
    $path$;
    v_live bigint;
    v_dead bigint;
begin
    if octet_length(queue_import.queue) between 1 and 255 is not true then
        perform _queue_refuse_name(queue_import.queue);
    end if;
    if session_user <> current_user
        or current_setting('session_authorization') = ''
        or current_setting('role') <> 'none'
    then
        perform _queue_allow(queue_import.queue, 'manage');
    end if;
    if v_size > 100000 then
        perform _queue_refuse_count(v_size);
    end if;
    if cardinality(queue_import.data) <> v_size then
        perform _queue_refuse_sizes('data', cardinality(queue_import.data), v_size);
    end if;
    if cardinality(queue_import.data_text) <> v_size then
        perform _queue_refuse_sizes('data_text', cardinality(queue_import.data_text), v_size);
    end if;
    if cardinality(queue_import.data_bytes) <> v_size then
        perform _queue_refuse_sizes('data_bytes', cardinality(queue_import.data_bytes), v_size);
    end if;
    if not queue_import.append then
        -- Two imports of the same at the same time: the second waits here for the end of the first. An update, so
        -- that one that could not see the first, in REPEATABLE READ, fails.
        insert into queue_setting (queue) values (queue_import.queue)
        on conflict (queue) do update set queue = excluded.queue;
        if exists (select from queue_job j where j.queue = queue_import.queue)
            or exists (select from queue_dead d where d.queue = queue_import.queue)
            or exists (select from queue_tally t where t.queue = queue_import.queue)
            or exists (select from queue_total t where t.queue = queue_import.queue)
        then
            raise exception using
                errcode = 'object_not_in_prerequisite_state',
                message = format('the queue %L has been used: what is imported could be there already', queue),
                hint = 'Import into a queue without a past (queue_drop takes it away), or, to add to what there is: '
                    'append => true.';
        end if;
    end if;
    -- What no other function would store: it could neither be taken nor put back.
    v_wrong := (
        select
            case
                when r.priority = -2147483648 then 'priority'
                when r.attempts not between 0 and 2147483646 then 'attempts'
                when r.max_attempts < 1 then 'max_attempts'
                when octet_length(r.dedupe_key) > 1024 then 'dedupe_key'
                when octet_length(r.consumer) > 255 then 'consumer'
                when octet_length((u.job -> 'headers')::text) > 65536 then 'headers'
                when jsonb_typeof(u.job -> 'history') <> 'array' or u.job @@ v_odd then 'history'
                when r.died_at is not null and r.reason is null then 'reason'
                when num_nonnulls(u.data, u.data_text, u.data_bytes) > 1 then 'data'
                when coalesce(octet_length(u.data_bytes), octet_length(u.data_text)) > 268435455 then 'data'
            end
        from unnest(queue_import.jobs, queue_import.data, queue_import.data_text, queue_import.data_bytes)
            as u (job, data, data_text, data_bytes)
        cross join lateral jsonb_to_record(u.job) as r (
            priority integer, attempts integer, max_attempts integer, dedupe_key text, consumer text,
            died_at timestamptz, reason text
        )
        where coalesce(
            r.priority = -2147483648
            or r.attempts not between 0 and 2147483646
            or r.max_attempts < 1
            or octet_length(r.dedupe_key) > 1024
            or octet_length(r.consumer) > 255
            or octet_length((u.job -> 'headers')::text) > 65536
            or jsonb_typeof(u.job -> 'history') <> 'array'
            or u.job @@ v_odd
            or r.died_at is not null and r.reason is null
            or num_nonnulls(u.data, u.data_text, u.data_bytes) > 1
            or coalesce(octet_length(u.data_bytes), octet_length(u.data_text)) > 268435455,
            false
        )
        limit 1
    );
    if v_wrong is not null then
        raise exception using
            errcode = 'invalid_parameter_value',
            message = format('the %s of a job is what no job can have', v_wrong),
            hint = 'Give what queue_export gave.';
    end if;
    perform _queue_check_json(d) from unnest(queue_import.data) as d where _queue_is_large(d);
    perform _queue_time(t.name, t.at, null, null)
    from unnest(queue_import.jobs) as u (job)
    cross join lateral jsonb_to_record(u.job) as r (
        enqueued_at timestamptz, schedule_at timestamptz, expected_at timestamptz, ready_at timestamptz,
        died_at timestamptz
    )
    cross join lateral (
        values
            ('enqueued', r.enqueued_at), ('schedule', r.schedule_at), ('expected', r.expected_at),
            ('ready', r.ready_at), ('died', r.died_at)
    ) t (name, at);
    -- What looks like a number or a time is one.
    perform h.attempt, h.at
    from unnest(queue_import.jobs) as u (job)
    cross join lateral jsonb_to_recordset(u.job -> 'history') as h (attempt integer, at timestamptz);

    v_new_ids := array(
        select nextval(pg_get_serial_sequence('queue_job', 'id')) from generate_series(1, v_size)
    );
    insert into queue_dead (
        queue, id, died_at, reason, data, data_text, data_bytes, priority, enqueued_at, schedule_at, expected_at,
        attempts, max_attempts, last_error, progress_count, consumer, dedupe_key, headers, history
    )
    select
        queue_import.queue, u.new_id, r.died_at, left(r.reason, 2000),
        case when num_nulls(u.data_text, u.data_bytes) = 2 then coalesce(u.data, 'null') end,
        u.data_text, u.data_bytes, coalesce(r.priority, 0), r.enqueued_at, r.schedule_at, r.expected_at,
        coalesce(r.attempts, 0), r.max_attempts, right(r.last_error, 2000), r.progress_count, r.consumer,
        r.dedupe_key, u.job -> 'headers', u.job -> 'history'
    from unnest(
        v_new_ids, queue_import.jobs, queue_import.data, queue_import.data_text, queue_import.data_bytes
    ) as u (new_id, job, data, data_text, data_bytes)
    cross join lateral jsonb_to_record(u.job) as r (
        priority integer, enqueued_at timestamptz, schedule_at timestamptz, expected_at timestamptz,
        attempts integer, max_attempts integer, last_error text, progress_count bigint, consumer text,
        dedupe_key text, died_at timestamptz, reason text
    )
    where r.died_at is not null;
    get diagnostics v_dead = row_count;

    -- In the order of the keys, as queue_put_many: no deadlock with batches that share them.
    with imported as (
        insert into queue_job (
            id, queue, enqueued_at, ready_at, schedule_at, expected_at, rank, attempts, max_attempts, last_error,
            progress_count, consumer, dedupe_key, headers, history, data, data_text, data_bytes
        )
        overriding system value
        select
            u.new_id, queue_import.queue, coalesce(r.enqueued_at, v_now),
            case when coalesce(r.ready_at, r.schedule_at) > v_now then coalesce(r.ready_at, r.schedule_at) end,
            r.schedule_at, coalesce(r.expected_at, 'infinity'), - coalesce(r.priority, 0),
            coalesce(r.attempts, 0), r.max_attempts, right(r.last_error, 2000), r.progress_count, r.consumer,
            r.dedupe_key, u.job -> 'headers', u.job -> 'history',
            case when num_nulls(u.data_text, u.data_bytes) = 2 then coalesce(u.data, 'null') end,
            u.data_text, u.data_bytes
        from unnest(
            v_new_ids, queue_import.jobs, queue_import.data, queue_import.data_text, queue_import.data_bytes
        ) with ordinality as u (new_id, job, data, data_text, data_bytes, n)
        cross join lateral jsonb_to_record(u.job) as r (
            priority integer, enqueued_at timestamptz, schedule_at timestamptz, expected_at timestamptz,
            ready_at timestamptz, attempts integer, max_attempts integer, last_error text, progress_count bigint,
            consumer text, dedupe_key text, died_at timestamptz
        )
        where r.died_at is null
        order by r.dedupe_key collate "C", u.n
        on conflict (queue, dedupe_key) where dedupe_key is not null do nothing
        returning id
    )
    select count(*), array_agg(i.id) into v_live, v_ids
    from imported i;

    if v_live > 0 or v_dead > 0 then
        insert into queue_tally (queue, put, dead)
        values (queue_import.queue, nullif(v_live, 0), nullif(v_dead, 0));
    end if;
    if v_live > 0 then
        perform _queue_wake(queue_import.queue);
    end if;
    return query
    select
        u.new_id,
        i.id is not null or u.job ->> 'died_at' is not null
    from unnest(v_new_ids, queue_import.jobs) with ordinality as u (new_id, job, n)
    left join unnest(v_ids) as i (id) on i.id = u.new_id
    order by u.n;
end
$$;

comment on function queue_import is $$
Put jobs that `queue_export` read, in another database or in this one, into a queue with all that was kept of them:
times, priorities, attempts and their history, keys, headers. Those with `died_at` go among the dead.

They get new ids, in the order in which they are given. What is scheduled, backs off or was leased waits for the
same time as before. A queue's limits do not keep them out.

**queue**: name of the queue.
**jobs**: for each job the object `job` of `queue_export`; fields may be missing. `history` is as in
`queue_dead_list`, its `consumer` and `error` may be missing, and `at` is as in `2026-11-27T17:00:00+00:00`.
**data**, **data_text**, **data_bytes**: for each job its data, in one of the three arrays; null in the other two.
**append**: false, the default, refuses a queue that has jobs, dead jobs or totals: an import that is repeated by
mistake puts nothing twice. The first call of an import in parts has false, those that follow in the same transaction
have true.

Returns a row for each job, in the order given: its **id**, and **is_new**, false where its dedupe_key is in the
queue already: then it was not stored, and there is no job with this id.

Errors: 22023 for a bad name, more than 100,000 jobs or what no job can have; 2202E where the arrays differ in
length; 22003, 22007, 22008 and 22P02 for a number or a time that is none or out of range; 55000 for a queue that was
used before; QU002 for JSON that is too large, as in `queue_put`.

    select id from queue_import('apples', array['{"priority": 3}']::jsonb[], array['{"kind": "Cox"}']::jsonb[]);
$$;

revoke all on function queue_import from public;
