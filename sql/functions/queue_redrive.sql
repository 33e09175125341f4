create or replace function queue_redrive(
    queue text,
    ids bigint[] default null,
    reason_like text default null,
    died_after timestamptz default null,
    died_before timestamptz default null,
    count integer default null
)
returns bigint
language plpgsql
volatile
security definer
set search_path from current
set enable_seqscan = off
as $$
#variable_conflict use_column
declare
    v_rows bigint;
begin
    if octet_length(queue_redrive.queue) between 1 and 255 is not true then
        perform _queue_refuse_name(queue_redrive.queue);
    end if;
    if session_user <> current_user
        or current_setting('session_authorization') = ''
        or current_setting('role') <> 'none'
    then
        perform _queue_allow(queue_redrive.queue, 'manage');
    end if;
    if queue_redrive.count < 1 then
        perform _queue_refuse_count(queue_redrive.count);
    end if;
    -- In the order of the keys, as queue_put_many: no deadlock with batches that share them. What is
    -- still in the queue (it was buried there) can't go back, and is not locked: whoever has it waits
    -- for its dead row, in _queue_fail, and may have a key that is waited for here. Not as NOT EXISTS:
    -- planned while the queue was empty, that would read all of it for each.
    with chosen as (
        select d.*
        from queue_dead d
        where d.queue = queue_redrive.queue
            and (queue_redrive.ids is null or d.id = any (queue_redrive.ids))
            and (queue_redrive.reason_like is null or d.reason like queue_redrive.reason_like)
            and (queue_redrive.died_after is null or d.died_at >= queue_redrive.died_after)
            and (queue_redrive.died_before is null or d.died_at < queue_redrive.died_before)
            and (select j.id from queue_job j where j.queue = queue_redrive.queue and j.id = d.id) is null
        order by d.died_at, d.id
        limit queue_redrive.count
        for update skip locked
    ), back as (
        insert into queue_job (
            id, queue, enqueued_at, schedule_at, expected_at, rank, max_attempts, last_error, progress_count,
            dedupe_key, headers, history, data, data_text, data_bytes
        )
        overriding system value
        select
            c.id, c.queue, coalesce(c.enqueued_at, c.died_at), c.schedule_at, coalesce(c.expected_at, 'infinity'),
            - c.priority, c.max_attempts, c.last_error, c.progress_count, c.dedupe_key, c.headers, c.history, c.data,
            c.data_text, c.data_bytes
        from chosen c
        order by c.dedupe_key collate "C", c.died_at, c.id
        -- Of the key.
        on conflict do nothing
        returning id
    )
    delete from queue_dead d
    using back b
    where d.queue = queue_redrive.queue and d.id = b.id;
    get diagnostics v_rows = row_count;
    if v_rows > 0 then
        insert into queue_tally (queue, moved, dead) values (queue_redrive.queue, v_rows, - v_rows);
        perform _queue_wake(queue_redrive.queue);
    end if;
    return v_rows;
end
$$;

comment on function queue_redrive is $$
Put dead jobs back into the queue they came from: all of them, or those that the arguments
choose. They keep their ids and their history, are ready at once, and may be tried as often
as new ones.

**queue**: name of the queue.
**ids**: these jobs only.
**reason_like**: only those whose reason matches this pattern of LIKE, `'%timeout%'` for example.
**died_after**, **died_before**: only those that died at or after, or before, these times.
**count**: this many at most, those that died first.

A queue's `max_depth` does not keep them out.

Returns how many are back. One whose dedupe_key another job in the queue has by now stays
among the dead, and so do those that another transaction is redriving or removing at this
moment.

Errors: 22023 for a bad name or a count below 1.

    select queue_redrive('apples', reason_like => '%timeout%');
$$;

revoke all on function queue_redrive from public;
