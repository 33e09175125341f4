create or replace function queue_put_many(
    queue text,
    data jsonb[] default null,
    schedule_at timestamptz default null,
    expected_at timestamptz default null,
    priority integer default 0,
    dedupe_keys text[] default null,
    headers jsonb default null,
    max_attempts integer default null,
    schedule_in interval default null,
    expected_in interval default null,
    data_text text[] default null,
    data_bytes bytea[] default null,
    notify boolean default true
)
returns table (
    id bigint,
    is_new boolean
)
language plpgsql
volatile
security definer
set search_path from current
as $$
#variable_conflict use_column
declare
    v_now timestamptz := clock_timestamp();
    v_schedule_at timestamptz;
    v_expected_at timestamptz := 'infinity';
    v_size integer := coalesce(cardinality(data), cardinality(data_text), cardinality(data_bytes), 0);
    v_new_ids bigint[];
    v_ids bigint[];
    v_inserted bigint := 0;
    v_bytes integer;
    v_nulls bigint;
begin
    if octet_length(queue_put_many.queue) between 1 and 255 is not true then
        perform _queue_refuse_name(queue_put_many.queue);
    end if;
    if session_user <> current_user
        or current_setting('session_authorization') = ''
        or current_setting('role') <> 'none'
    then
        perform _queue_allow(queue_put_many.queue, 'put');
    end if;
    if num_nonnulls(queue_put_many.data, queue_put_many.data_text, queue_put_many.data_bytes) > 1 then
        raise exception using
            errcode = 'invalid_parameter_value',
            message = 'more than one of data, data_text and data_bytes is given',
            hint = 'A job holds one of the three; put jobs of different kinds in different calls.';
    end if;
    if cardinality(queue_put_many.dedupe_keys) <> v_size then
        raise exception using
            errcode = 'array_subscript_error',
            message = format('%s dedupe_keys are given for %s jobs', cardinality(queue_put_many.dedupe_keys), v_size),
            hint = 'Give one key for each job; a null key is no key.';
    end if;
    if queue_put_many.max_attempts < 1 then
        raise exception using
            errcode = 'invalid_parameter_value',
            message = format('max_attempts is %s', queue_put_many.max_attempts),
            hint = 'A job is tried at least once; null is as the queue says.';
    end if;
    if v_size > 100000 then
        perform _queue_refuse_count(v_size);
    end if;
    if queue_put_many.priority = -2147483648 then
        raise exception using
            errcode = 'numeric_value_out_of_range',
            message = 'the priority is -2147483648',
            hint = 'The lowest priority is -2147483647: each must have its opposite, by which jobs are sorted.';
    end if;
    v_bytes := octet_length(queue_put_many.headers::text);
    if v_bytes > 65536 then
        perform _queue_refuse_length('headers', v_bytes, 65536);
    end if;
    v_bytes := (select max(octet_length(k)) from unnest(queue_put_many.dedupe_keys) as k);
    if v_bytes > 1024 then
        perform _queue_refuse_length('dedupe_key', v_bytes, 1024);
    end if;
    -- Not by array_position, which an array of more dimensions than one is an error for.
    select
        max(coalesce(octet_length(u.data_text), octet_length(u.data_bytes))),
        count(*) - count(u.data_text) - count(u.data_bytes)
    into v_bytes, v_nulls
    from unnest(queue_put_many.data_text, queue_put_many.data_bytes) as u (data_text, data_bytes);
    if v_nulls > 0 then
        raise exception using
            errcode = 'null_value_not_allowed',
            message = 'an element of data_text or data_bytes is null',
            hint = 'Only JSON has a null to store; leave the element out, or put it as JSON.';
    end if;
    if v_bytes > 268435455 then
        perform _queue_refuse_data(v_bytes);
    end if;
    perform _queue_check_json(d) from unnest(queue_put_many.data) as d where _queue_is_large(d);
    if queue_put_many.schedule_at is not null or queue_put_many.schedule_in is not null then
        v_schedule_at := _queue_time('schedule', queue_put_many.schedule_at, queue_put_many.schedule_in, v_now);
    end if;
    if queue_put_many.expected_at is not null or queue_put_many.expected_in is not null then
        v_expected_at := _queue_time('expected', queue_put_many.expected_at, queue_put_many.expected_in, v_now);
    end if;

    if v_size = 0 then
        return;
    end if;
    if exists (
        select
        from queue_setting s
        where s.queue = queue_put_many.queue and num_nonnulls(s.max_bytes, s.max_depth) > 0
    ) then
        perform _queue_check_limits(
            queue_put_many.queue,
            (
                select max(coalesce(
                    octet_length(u.data::text),
                    octet_length(u.data_text),
                    octet_length(u.data_bytes),
                    octet_length('null')
                ))
                from unnest(queue_put_many.data, queue_put_many.data_text, queue_put_many.data_bytes)
                    as u (data, data_text, data_bytes)
            ),
            case
                when queue_put_many.dedupe_keys is null then v_size
                else (
                    select count(distinct k) filter (where _queue_find(queue_put_many.queue, k) is null)
                        + count(*) filter (where k is null)
                    from unnest(queue_put_many.dedupe_keys) as k
                )
            end
        );
    end if;

    if queue_put_many.dedupe_keys is null then
        -- Ids are given out in the order in which the rows arrive at the insert.
        return query
        insert into queue_job (
            queue, enqueued_at, ready_at, schedule_at, expected_at, rank,
            headers, max_attempts, data, data_text, data_bytes
        )
        select
            queue_put_many.queue,
            v_now,
            case when v_schedule_at > v_now then v_schedule_at end,
            v_schedule_at,
            v_expected_at,
            - coalesce(queue_put_many.priority, 0),
            queue_put_many.headers,
            queue_put_many.max_attempts,
            case when queue_put_many.data is not null then coalesce(u.data, 'null') end,
            u.data_text,
            u.data_bytes
        from unnest(queue_put_many.data, queue_put_many.data_text, queue_put_many.data_bytes)
            with ordinality as u (data, data_text, data_bytes, n)
        order by u.n
        returning id, true;
        v_inserted := v_size;
    else
        v_new_ids := array(
            select nextval(pg_get_serial_sequence('queue_job', 'id')) from generate_series(1, v_size)
        );
        loop
            if v_size = 1 then
                v_ids := _queue_put_keys(
                    queue_put_many.queue, v_new_ids, v_now, v_schedule_at, v_expected_at, queue_put_many.priority,
                    queue_put_many.dedupe_keys, queue_put_many.headers, queue_put_many.max_attempts,
                    queue_put_many.data, queue_put_many.data_text, queue_put_many.data_bytes
                );
                exit when v_ids[1] is not null;
            else
                -- A key that was there may be gone by the time its id is looked up. To put it then
                -- may mean to wait, and who waits for a key must not have a later one: begin anew.
                -- Only many keys are worth a subtransaction.
                begin
                    v_ids := _queue_put_keys(
                        queue_put_many.queue, v_new_ids, v_now, v_schedule_at, v_expected_at, queue_put_many.priority,
                        queue_put_many.dedupe_keys, queue_put_many.headers, queue_put_many.max_attempts,
                        queue_put_many.data, queue_put_many.data_text, queue_put_many.data_bytes
                    );
                    exit when array_position(v_ids, null) is null;
                    raise exception using errcode = 'QU999', hint = 'It is caught below.';
                exception
                    when sqlstate 'QU999' then null;
                end;
            end if;
        end loop;
        v_inserted := (
            select count(*) from unnest(v_ids, v_new_ids) as u (id, new_id) where u.id = u.new_id
        );
        return query
        select u.id, u.id = u.new_id
        from unnest(v_ids, v_new_ids) with ordinality as u (id, new_id, n)
        order by u.n;
    end if;

    if v_inserted > 0 then
        insert into queue_tally (queue, put) values (queue_put_many.queue, v_inserted);
        if random() < 0.005 then
            perform _queue_fold(queue_put_many.queue);
        end if;
    end if;
    if queue_put_many.notify and v_inserted > 0 then
        perform _queue_wake(queue_put_many.queue);
    end if;
end
$$;

comment on function queue_put_many is $$
Put many jobs into a queue at once, in one statement: all of them or none.

**queue**: name of the queue.
**data**: one JSON value for each job; a null element is JSON's null.
**dedupe_keys**: one key for each job, as in `queue_put`; a null element is no key.
**data_text**, **data_bytes**: text or bytes instead of JSON; no element may be null.
An array of more dimensions than one is a list of its elements.

The other arguments are those of `queue_put` and hold for every job of the batch.

Returns a row for each job in the order of the array: its **id**, and **is_new**, false where
its key is already in the queue, or twice in the batch: then it is the id of the job that is
there.

Errors: those of `queue_put`; 22023 for more than 100,000 jobs; 2202E where the number of keys
is not the number of jobs; 22004 for a null text.

    select id, is_new from queue_put_many('apples', array['{"kind": "Cox"}', '{"kind": "Gala"}']::jsonb[]);
$$;

revoke all on function queue_put_many from public;
