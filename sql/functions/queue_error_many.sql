create or replace function queue_error_many(
    queue text,
    ids bigint[],
    receipts uuid[],
    messages text[] default null,
    retry_in interval default null,
    bury boolean default false
)
returns table (
    id bigint,
    done boolean
)
language plpgsql
volatile
security definer
set search_path from current
set enable_seqscan = off
as $$
#variable_conflict use_column
declare
    v_done boolean[];
    v_job record;
begin
    if octet_length(queue_error_many.queue) between 1 and 255 is not true then
        perform _queue_refuse_name(queue_error_many.queue);
    end if;
    if session_user <> current_user
        or current_setting('session_authorization') = ''
        or current_setting('role') <> 'none'
    then
        perform _queue_allow(queue_error_many.queue, 'get');
    end if;
    if cardinality(ids) <> cardinality(receipts) is not false then
        perform _queue_refuse_sizes('receipts', cardinality(receipts), cardinality(ids));
    end if;
    if cardinality(messages) <> cardinality(ids) then
        perform _queue_refuse_sizes('messages', cardinality(messages), cardinality(ids));
    end if;
    v_done := array_fill(false, array[cardinality(ids)]);
    -- In the order of the ids: two calls that share jobs wait for each other, and don't lock
    -- each other out.
    for v_job in
        select u.id, u.receipt, u.message, u.n
        from unnest(ids, receipts, messages) with ordinality as u (id, receipt, message, n)
        order by u.id
    loop
        v_done[v_job.n] := v_job.receipt is not null
            and queue_error(
                queue_error_many.queue, v_job.id, v_job.receipt, v_job.message,
                queue_error_many.retry_in, queue_error_many.bury
            );
    end loop;
    return query
    select u.id, u.done from unnest(ids, v_done) with ordinality as u (id, done, n) order by u.n;
end
$$;

comment on function queue_error_many is $$
As `queue_error`, for many jobs at once.

**queue**: name of the queue; **ids**, **receipts**: the jobs, as `queue_lease` gave them.
**messages**: one for each job; **retry_in**, **bury**: as there, for all of them.

Returns a row for each job, in the order given: **done** is false where the lease is no
longer good, and nothing was changed.

Errors: those of `queue_error`; 2202E where there are not as many receipts or messages as ids.

    select id, done
    from queue_error_many(
        'apples', '{42, 43}', array['3d3a1ad4-2a1f-4ba1-9e13-5a3fcb8b2fd0', null]::uuid[], '{a worm, rotten}'
    );
$$;

revoke all on function queue_error_many from public;
