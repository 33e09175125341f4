create or replace function queue_bury(
    queue text,
    id bigint,
    reason text,
    data jsonb default null,
    data_text text default null,
    data_bytes bytea default null,
    priority integer default 0,
    enqueued_at timestamptz default null,
    schedule_at timestamptz default null,
    expected_at timestamptz default null,
    attempts integer default 0,
    max_attempts integer default null,
    consumer text default null,
    dedupe_key text default null,
    headers jsonb default null
)
returns void
language plpgsql
volatile
security definer
set search_path from current
as $$
#variable_conflict use_column
declare
    v_bytes integer;
begin
    if octet_length(queue_bury.queue) between 1 and 255 is not true then
        perform _queue_refuse_name(queue_bury.queue);
    end if;
    if session_user <> current_user
        or current_setting('session_authorization') = ''
        or current_setting('role') <> 'none'
    then
        perform _queue_allow(queue_bury.queue, 'get');
    end if;
    -- What is dead may be put back into the queue, where the same holds. An id that is yet to come would then
    -- be taken when it comes, and the put that draws it fail.
    if queue_bury.id > (select s.last_value from queue_job_id_seq s) then
        raise exception using
            errcode = 'invalid_parameter_value',
            message = format('no job has had the id %s', queue_bury.id),
            hint = 'Give the id of the job that was taken.';
    end if;
    if num_nonnulls(queue_bury.data, queue_bury.data_text, queue_bury.data_bytes) > 1 then
        raise exception using
            errcode = 'invalid_parameter_value',
            message = 'more than one of data, data_text and data_bytes is given',
            hint = 'A job holds one of the three.';
    end if;
    if queue_bury.max_attempts < 1 then
        raise exception using
            errcode = 'invalid_parameter_value',
            message = format('max_attempts is %s', queue_bury.max_attempts),
            hint = 'A job is tried at least once; null is as the queue says.';
    end if;
    if queue_bury.priority = -2147483648 then
        raise exception using
            errcode = 'numeric_value_out_of_range',
            message = 'the priority is -2147483648',
            hint = 'The lowest priority is -2147483647: each must have its opposite, by which jobs are sorted.';
    end if;
    perform _queue_time('enqueued', queue_bury.enqueued_at, null, null);
    perform _queue_time('schedule', queue_bury.schedule_at, null, null);
    perform _queue_time('expected', queue_bury.expected_at, null, null);
    v_bytes := coalesce(octet_length(queue_bury.data_bytes), octet_length(queue_bury.data_text));
    if v_bytes > 268435455 then
        perform _queue_refuse_data(v_bytes);
    end if;
    if _queue_is_large(queue_bury.data) then
        perform _queue_check_json(queue_bury.data);
    end if;
    if octet_length(queue_bury.dedupe_key) > 1024 then
        perform _queue_refuse_length('dedupe_key', octet_length(queue_bury.dedupe_key), 1024);
    end if;
    if octet_length(queue_bury.consumer) > 255 then
        perform _queue_refuse_length('consumer', octet_length(queue_bury.consumer), 255);
    end if;
    if octet_length(queue_bury.headers::text) > 65536 then
        perform _queue_refuse_length('headers', octet_length(queue_bury.headers::text), 65536);
    end if;
    insert into queue_dead (
        queue, id, died_at, reason, data, data_text, data_bytes, priority, enqueued_at,
        schedule_at, expected_at, attempts, max_attempts, consumer, dedupe_key, headers
    )
    values (
        queue_bury.queue, queue_bury.id, clock_timestamp(), left(queue_bury.reason, 2000),
        case
            when num_nonnulls(queue_bury.data_text, queue_bury.data_bytes) = 0 then coalesce(queue_bury.data, 'null')
        end,
        queue_bury.data_text, queue_bury.data_bytes, queue_bury.priority, queue_bury.enqueued_at,
        queue_bury.schedule_at, queue_bury.expected_at,
        queue_bury.attempts, queue_bury.max_attempts, queue_bury.consumer,
        queue_bury.dedupe_key, queue_bury.headers
    )
    on conflict (queue, id) do nothing;
    if found then
        insert into queue_tally (queue, dead, died) values (queue_bury.queue, 1, 1);
    end if;
end
$$;

comment on function queue_bury is $$
Put a job that was taken with `queue_get` among the dead, because it can't be read.

For consumers that find that the data of a job is not what they can decode: in the
transaction that took it, or after that, as soon as they find out. The job stays for
inspection in the table `queue_dead`.

**queue**, **id**: the job.
**reason**: why, in words; the first 2,000 characters are kept.

The other arguments are the job's fields, as `queue_get` returned them.

Errors: 22023 for a bad name, an id that no job has had yet, more than one kind of data, or fields
that no job can have; 22003, 22008 and QU002 for a priority, a time or data, as in `queue_put`;
23502 for a missing id or reason.

    select queue_bury('apples', id, 'not an apple', data => data) from queue_get('apples');
$$;

revoke all on function queue_bury from public;
