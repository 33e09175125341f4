create or replace function queue_release_many(
    queue text,
    ids bigint[],
    receipts uuid[]
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
    if octet_length(queue_release_many.queue) between 1 and 255 is not true then
        perform _queue_refuse_name(queue_release_many.queue);
    end if;
    if session_user <> current_user
        or current_setting('session_authorization') = ''
        or current_setting('role') <> 'none'
    then
        perform _queue_allow(queue_release_many.queue, 'get');
    end if;
    if cardinality(ids) <> cardinality(receipts) is not false then
        perform _queue_refuse_sizes('receipts', cardinality(receipts), cardinality(ids));
    end if;
    v_done := array_fill(false, array[cardinality(ids)]);
    -- In the order of the ids: two calls that share jobs wait for each other, and don't lock
    -- each other out.
    for v_job in
        select u.id, u.receipt, u.n
        from unnest(ids, receipts) with ordinality as u (id, receipt, n)
        order by u.id
    loop
        v_done[v_job.n] := v_job.receipt is not null
            and queue_release(queue_release_many.queue, v_job.id, v_job.receipt);
    end loop;
    return query
    select u.id, u.done from unnest(ids, v_done) with ordinality as u (id, done, n) order by u.n;
end
$$;

comment on function queue_release_many is $$
As `queue_release`, for many jobs at once.

**queue**: name of the queue; **ids**, **receipts**: the jobs, as `queue_lease` gave them.

Returns a row for each job, in the order given: **done** is false where the lease is no
longer good, and nothing was changed.

Errors: those of `queue_release`; 2202E where there are not as many receipts as ids.

    select id, done
    from queue_release_many('apples', '{42, 43}', array['3d3a1ad4-2a1f-4ba1-9e13-5a3fcb8b2fd0', null]::uuid[]);
$$;

revoke all on function queue_release_many from public;
