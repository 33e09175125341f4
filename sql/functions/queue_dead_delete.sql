create or replace function queue_dead_delete(
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
    if octet_length(queue_dead_delete.queue) between 1 and 255 is not true then
        perform _queue_refuse_name(queue_dead_delete.queue);
    end if;
    if session_user <> current_user
        or current_setting('session_authorization') = ''
        or current_setting('role') <> 'none'
    then
        perform _queue_allow(queue_dead_delete.queue, 'manage');
    end if;
    if queue_dead_delete.count < 1 then
        perform _queue_refuse_count(queue_dead_delete.count);
    end if;
    with chosen as (
        select d.id
        from queue_dead d
        where d.queue = queue_dead_delete.queue
            and (queue_dead_delete.ids is null or d.id = any (queue_dead_delete.ids))
            and (queue_dead_delete.reason_like is null or d.reason like queue_dead_delete.reason_like)
            and (queue_dead_delete.died_after is null or d.died_at >= queue_dead_delete.died_after)
            and (queue_dead_delete.died_before is null or d.died_at < queue_dead_delete.died_before)
        order by d.died_at, d.id
        limit queue_dead_delete.count
        for update skip locked
    )
    delete from queue_dead d
    using chosen c
    where d.queue = queue_dead_delete.queue and d.id = c.id;
    get diagnostics v_rows = row_count;
    if v_rows > 0 then
        insert into queue_tally (queue, dead) values (queue_dead_delete.queue, - v_rows);
    end if;
    return v_rows;
end
$$;

comment on function queue_dead_delete is $$
Remove dead jobs of a queue for good: all of them, or those that the arguments choose.

**queue**: name of the queue.
**ids**: these jobs only.
**reason_like**: only those whose reason matches this pattern of LIKE, `'%timeout%'` for example.
**died_after**, **died_before**: only those that died at or after, or before, these times.
**count**: this many at most, those that died first.

Returns how many were removed. Those that another transaction is redriving or removing at
this moment are left to it.

Errors: 22023 for a bad name or a count below 1.

    select queue_dead_delete('apples', died_before => now() - interval '30 days');
$$;

revoke all on function queue_dead_delete from public;
