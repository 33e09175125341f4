create or replace function queue_clear(
    queue text
)
returns bigint
language plpgsql
volatile
security definer
set search_path from current
as $$
#variable_conflict use_column
declare
    v_cleared bigint;
begin
    if octet_length(queue_clear.queue) between 1 and 255 is not true then
        perform _queue_refuse_name(queue_clear.queue);
    end if;
    with held as materialized (
        select j.id
        from queue_job j
        where j.queue = queue_clear.queue
        for update skip locked
    )
    delete from queue_job j
    using held
    where j.queue = queue_clear.queue and j.id = held.id;
    get diagnostics v_cleared = row_count;
    return v_cleared;
end
$$;

comment on function queue_clear is $$
Remove all jobs of a queue, the scheduled ones too. Its settings and its dead jobs stay.

A job that a transaction is taking at this moment is left to that transaction; the call
does not wait for it.

**queue**: name of the queue.

Returns how many jobs were removed.

Errors: 22023 for a bad name.

    select queue_clear('apples');
$$;

revoke all on function queue_clear from public;
