create or replace function queue_put(
    queue text,
    data jsonb default null,
    schedule_at timestamptz default null,
    expected_at timestamptz default null,
    priority integer default 0,
    dedupe_key text default null,
    headers jsonb default null,
    max_attempts integer default null,
    schedule_in interval default null,
    expected_in interval default null,
    data_text text default null,
    data_bytes bytea default null,
    notify boolean default true
)
returns bigint
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
    v_bytes integer;
    v_id bigint;
begin
    -- One expression for all that is wrong or rare, and no functions in it where an operator does:
    -- to set up an expression costs more than to evaluate it.
    if
        octet_length(queue_put.queue) between 1 and 255
        and (
            session_user = current_user
            and current_setting('session_authorization') <> ''
            and current_setting('role') = 'none'
            or _queue_may(queue_put.queue, 'put')
        )
        and (queue_put.data is not null) <> (queue_put.data_text is not null or queue_put.data_bytes is not null)
        and (queue_put.data_text is null or queue_put.data_bytes is null)
        and queue_put.dedupe_key is null
        and queue_put.priority > -2147483648
        and queue_put.max_attempts is null
        and _queue_is_large(queue_put.data) is not true
    then
        if queue_put.data is null or queue_put.headers is not null
            or queue_put.schedule_at is not null or queue_put.schedule_in is not null
            or queue_put.expected_at is not null or queue_put.expected_in is not null
        then
            v_bytes := octet_length(queue_put.headers::text);
            if v_bytes > 65536 then
                perform _queue_refuse_length('headers', v_bytes, 65536);
            end if;
            v_bytes := coalesce(octet_length(queue_put.data_bytes), octet_length(queue_put.data_text));
            if v_bytes > 268435455 then
                perform _queue_refuse_data(v_bytes);
            end if;
            if num_nonnulls(
                queue_put.schedule_at, queue_put.schedule_in, queue_put.expected_at, queue_put.expected_in
            ) > 0 then
                v_schedule_at := _queue_time('schedule', queue_put.schedule_at, queue_put.schedule_in, v_now);
                v_expected_at := coalesce(
                    _queue_time('expected', queue_put.expected_at, queue_put.expected_in, v_now), 'infinity'
                );
            end if;
        end if;
        -- Not with RETURNING, which makes a row of all columns, nor with ON CONFLICT, which
        -- writes each row in two steps: together they would be a third of this.
        insert into queue_job (
            queue, enqueued_at, ready_at, schedule_at, expected_at, rank, headers, data, data_text, data_bytes
        )
        select
            queue_put.queue,
            v_now,
            case when v_schedule_at > v_now then v_schedule_at end,
            v_schedule_at,
            v_expected_at,
            - queue_put.priority,
            queue_put.headers,
            queue_put.data,
            queue_put.data_text,
            queue_put.data_bytes
        where not exists (
            select
            from queue_setting s
            where s.queue = queue_put.queue and num_nonnulls(s.max_bytes, s.max_depth) > 0
        );
        if found then
            v_id := currval('queue_job_id_seq');
            insert into queue_tally (queue, put) values (queue_put.queue, 1);
            if random() < 0.005 then
                perform _queue_fold(queue_put.queue);
            end if;
            if queue_put.notify and not _queue_nobody_sleeps(queue_put.queue) then
                perform pg_notify(_queue_channel(queue_put.queue), '');
            end if;
            return v_id;
        end if;
    end if;

    -- A key, a limit, large JSON, or a mistake: as a batch of one.
    return (
        select p.id
        from queue_put_many(
            queue_put.queue,
            case
                when num_nonnulls(queue_put.data, queue_put.data_text, queue_put.data_bytes) <> 1
                    or queue_put.data is not null
                then array[queue_put.data]
            end,
            queue_put.schedule_at,
            queue_put.expected_at,
            queue_put.priority,
            array[queue_put.dedupe_key],
            queue_put.headers,
            queue_put.max_attempts,
            queue_put.schedule_in,
            queue_put.expected_in,
            case when queue_put.data_text is not null then array[queue_put.data_text] end,
            case when queue_put.data_bytes is not null then array[queue_put.data_bytes] end,
            queue_put.notify
        ) p
    );
end
$$;

comment on function queue_put is $$
Put one job into a queue.

The job is there for others when the caller's transaction commits. The queue needs no
making.

**queue**: name of the queue, 1 to 255 bytes, any character but NUL.
**data**: the job's data as JSON; null is JSON's null.
**schedule_at**: the job can't be taken before this time. A time that has passed means now.
**expected_at**: the time by which the job should be worked on; of two jobs with the same
priority the one expected earlier comes first, and one without an expectation last.
**priority**: higher comes first; 0 by default, negative is fine.
**dedupe_key**: while a job with this key is in the queue, another put with the same key
stores nothing and returns the id of the job that is there (`queue_put_many` also tells which
it was). A put waits for the end of a transaction that is putting or taking the job with its
key.
**headers**: anything for the consumer that is not the data, a trace context for example.
**max_attempts**: how often the job may be tried before it goes to the dead; by default as
the queue says.
**schedule_in**, **expected_in**: the same two times as an interval from now, by the
server's clock; a negative interval means now.
**data_text**, **data_bytes**: text or bytes instead of JSON, stored as they are.
**notify**: false leaves sleeping consumers asleep until they poll. Needed in a transaction
that is to be prepared (two-phase commit), which can't notify.

Returns the job's id.

Errors: 22023 for a bad name, max_attempts below 1, a dedupe_key of more than 1,024 bytes, headers of
more than 65,536 or arguments that exclude each other; 22008 for an infinite or impossible time, or one
after the year 9999; 22003 for the priority -2147483648, which has no opposite; 22P02, 22P05 or
54001 for text that is not JSON, is not Unicode or is nested too deep; 40001 where the key
is being put by another transaction and the isolation level is above READ COMMITTED; 40P01
where two transactions that hold a key each wait for the other's; QU001 where the queue is
full, QU002 where the data are too large for it (see `queue_create`), text or bytes of more
than 268,435,455 bytes, or JSON of more than 536,870,911 as text.

    select queue_put('apples', '{"kind": "Cox"}');
    select queue_put('apples', '{"kind": "Cox"}', schedule_in => '5m', priority => 10);
$$;

revoke all on function queue_put from public;
