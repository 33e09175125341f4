create or replace function queue_dead_list(
    queue text,
    ids bigint[] default null,
    reason_like text default null,
    died_after timestamptz default null,
    died_before timestamptz default null,
    count integer default null
)
returns table (
    id bigint,
    died_at timestamptz,
    reason text,
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
    headers jsonb,
    history jsonb
)
language plpgsql
volatile
security definer
set search_path from current
set enable_seqscan = off
as $$
#variable_conflict use_column
begin
    if octet_length(queue_dead_list.queue) between 1 and 255 is not true then
        perform _queue_refuse_name(queue_dead_list.queue);
    end if;
    if session_user <> current_user
        or current_setting('session_authorization') = ''
        or current_setting('role') <> 'none'
    then
        perform _queue_allow(queue_dead_list.queue, 'observe', 'manage');
    end if;
    if queue_dead_list.count < 1 then
        perform _queue_refuse_count(queue_dead_list.count);
    end if;
    return query
    select
        d.id, d.died_at, d.reason, d.data, d.data_text, d.data_bytes, d.priority, d.enqueued_at,
        d.schedule_at, d.expected_at, d.attempts, d.max_attempts, d.last_error, d.progress_count,
        d.consumer, d.dedupe_key, d.headers, d.history
    from queue_dead d
    where d.queue = queue_dead_list.queue
        and (queue_dead_list.ids is null or d.id = any (queue_dead_list.ids))
        and (queue_dead_list.reason_like is null or d.reason like queue_dead_list.reason_like)
        and (queue_dead_list.died_after is null or d.died_at >= queue_dead_list.died_after)
        and (queue_dead_list.died_before is null or d.died_at < queue_dead_list.died_before)
    order by d.died_at, d.id
    limit queue_dead_list.count;
end
$$;

comment on function queue_dead_list is $$
Look at the dead jobs of a queue: those that are out of attempts, can't be read, or were
buried. They come in the order in which they died.

**queue**: name of the queue.
**ids**: these jobs only.
**reason_like**: only those whose reason matches this pattern of LIKE, `'%timeout%'` for example.
**died_after**, **died_before**: only those that died at or after, or before, these times.
**count**: this many at most, those that died first.

Returns one row for each job: what `queue_get` returns; when it died, and the **reason**; and
**history**, an array with an object for each failed attempt, the latest last: its number
(`attempt`), when it ended (`at`), the `consumer`, and the `error`. Of more than 50 the latest
are kept.

Errors: 22023 for a bad name or a count below 1.

    select id, died_at, reason, data, history from queue_dead_list('apples', count => 10);
$$;

revoke all on function queue_dead_list from public;
