create or replace function queue_complete_many(
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
-- As in queue_get.
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
-- In the order of the ids, and not of the pages: two calls that share jobs wait for each other,
-- and don't lock each other out.
set enable_bitmapscan = off
set jit = off
as $$
#variable_conflict use_column
declare
    v_now timestamptz := clock_timestamp();
    -- Job and receipt, as keys of an object, where they are found by halving.
    v_given jsonb;
    v_gone jsonb;
    v_done text[] := '{}';
    v_job record;
    v_rows integer;
begin
    if octet_length(queue_complete_many.queue) between 1 and 255 is not true then
        perform _queue_refuse_name(queue_complete_many.queue);
    end if;
    if session_user <> current_user
        or current_setting('session_authorization') = ''
        or current_setting('role') <> 'none'
    then
        perform _queue_allow(queue_complete_many.queue, 'get');
    end if;
    if cardinality(ids) <> cardinality(receipts) is not false then
        perform _queue_refuse_sizes('receipts', cardinality(receipts), cardinality(ids));
    end if;
    if _queue_has_sets() then
        v_given := (
            select jsonb_object_agg(concat_ws(' ', u.id, u.receipt), null)
            from unnest(ids, receipts) as u (id, receipt)
        );
        with gone as (
            delete from queue_job j
            where j.queue = queue_complete_many.queue
                and j.id = any (queue_complete_many.ids)
                and j.lease_until > v_now
                and v_given ? (j.id || ' ' || j.receipt)
            returning j.id || ' ' || j.receipt as done
        )
        select coalesce(array_agg(g.done), '{}')
        into v_done
        from gone g;
    else
        for v_job in
            select u.id, u.receipt
            from unnest(ids, receipts) as u (id, receipt)
            order by u.id
        loop
            delete from queue_job j
            where j.queue = queue_complete_many.queue
                and j.id = v_job.id
                and j.receipt = v_job.receipt
                and j.lease_until > v_now;
            if found then
                v_done := v_done || concat_ws(' ', v_job.id, v_job.receipt);
            end if;
        end loop;
    end if;
    v_rows := cardinality(v_done);
    if v_rows > 0 then
        insert into queue_tally (queue, taken, completed) values (queue_complete_many.queue, v_rows, v_rows);
        if random() < 0.005 then
            perform _queue_fold(queue_complete_many.queue);
        end if;
    end if;
    v_gone := (select jsonb_object_agg(d.done, null) from unnest(v_done) as d (done));
    return query
    select
        u.id,
        coalesce(v_gone ? concat_ws(' ', u.id, u.receipt), false)
            -- Of what is there twice the first is done.
            and row_number() over (partition by u.id, u.receipt order by u.n) = 1
    from unnest(ids, receipts) with ordinality as u (id, receipt, n)
    order by u.n;
end
$$;

comment on function queue_complete_many is $$
As `queue_complete`, for many jobs at once.

**queue**: name of the queue; **ids**, **receipts**: the jobs, as `queue_lease` gave them.

Returns a row for each job, in the order given: **done** is false where the lease is no
longer good, and nothing was changed.

Errors: those of `queue_complete`; 2202E where there are not as many receipts as ids.

    select id, done
    from queue_complete_many('apples', '{42, 43}', array['3d3a1ad4-2a1f-4ba1-9e13-5a3fcb8b2fd0', null]::uuid[]);
$$;

revoke all on function queue_complete_many from public;
