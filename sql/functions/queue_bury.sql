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
begin
    if octet_length(queue_bury.queue) between 1 and 255 is not true then
        perform _queue_refuse_name(queue_bury.queue);
    end if;
    if current_setting('session_authorization') <> current_user or current_setting('role') <> 'none' then
        perform _queue_allow(queue_bury.queue, 'get');
    end if;
    -- What is dead may be put back into the queue, where the same holds.
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
        queue_bury.data, queue_bury.data_text, queue_bury.data_bytes, queue_bury.priority,
        queue_bury.enqueued_at, queue_bury.schedule_at, queue_bury.expected_at,
        queue_bury.attempts, queue_bury.max_attempts, queue_bury.consumer,
        queue_bury.dedupe_key, queue_bury.headers
    )
    on conflict (queue, id) do nothing;
    if found then
        insert into queue_tally (queue, dead) values (queue_bury.queue, 1);
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

Errors: 22023 for a bad name, or fields longer than a job's can be; 23502 for a missing id or reason.

    select queue_bury('apples', 42, 'not an apple', data => '{"kind": "Conference"}');
$$;

revoke all on function queue_bury from public;
