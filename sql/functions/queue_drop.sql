create or replace function queue_drop(
    queue text
)
returns boolean
language plpgsql
volatile
security definer
set search_path from current
as $$
#variable_conflict use_column
declare
    v_found boolean := false;
    v_ids bigint[];
    v_left tid[];
begin
    if octet_length(queue_drop.queue) between 1 and 255 is not true then
        perform _queue_refuse_name(queue_drop.queue);
    end if;
    if session_user <> current_user
        or current_setting('session_authorization') = ''
        or current_setting('role') <> 'none'
    then
        perform _queue_allow(queue_drop.queue, 'manage');
    end if;
    -- All rows in one order, so that two calls wait for each other, and none is waited for that came meanwhile and
    -- has no place in it. The totals twice: first, while nothing else is locked, to wait for a transaction that is
    -- folding them; at the end for what those left behind that were taking jobs.
    v_left := array(
        select t.ctid from queue_tally t where t.queue = queue_drop.queue order by t.ctid for update
    );
    delete from queue_tally t where t.queue = queue_drop.queue and t.ctid = any (v_left);
    v_found := found;
    perform from queue_total t where t.queue = queue_drop.queue order by t.id for update;
    delete from queue_total t where t.queue = queue_drop.queue;
    v_found := v_found or found;
    delete from queue_setting s where s.queue = queue_drop.queue;
    v_found := v_found or found;
    -- Dead jobs before the others, as queue_redrive, which then waits for keys. But not those that
    -- are still in the queue, which come after them in _queue_fail.
    v_ids := array(
        select d.id
        from queue_dead d
        where d.queue = queue_drop.queue
            and (select j.id from queue_job j where j.queue = queue_drop.queue and j.id = d.id) is null
        order by d.id
        for update
    );
    delete from queue_dead d where d.queue = queue_drop.queue and d.id = any (v_ids);
    v_found := v_found or found;
    -- In the order of the ids, as those who end leases. Then all that are there by now, but for those that others
    -- have taken meanwhile.
    perform from queue_job j where j.queue = queue_drop.queue order by j.id for update;
    v_found := queue_clear(queue_drop.queue) > 0 or v_found;
    -- What those left behind that were working on jobs. Who redrives some of it comes after this call.
    v_ids := array(
        select d.id from queue_dead d where d.queue = queue_drop.queue for update skip locked
    );
    delete from queue_dead d where d.queue = queue_drop.queue and d.id = any (v_ids);
    v_found := v_found or found;
    v_left := array(
        select t.ctid from queue_tally t where t.queue = queue_drop.queue for update skip locked
    );
    delete from queue_tally t where t.queue = queue_drop.queue and t.ctid = any (v_left);
    v_ids := array(
        select t.id from queue_total t where t.queue = queue_drop.queue for update skip locked
    );
    delete from queue_total t where t.queue = queue_drop.queue and t.id = any (v_ids);
    return v_found;
end
$$;

comment on function queue_drop is $$
Remove a queue with all that is in it: jobs, dead jobs, settings and totals.

Waits for transactions that are taking jobs from it, or redriving its dead jobs. A put afterwards makes the queue anew;
a job that was put and taken while the call waited may be left to whoever took it.

**queue**: name of the queue.

Returns true if there was anything to remove.

Errors: 22023 for a bad name.

    select queue_drop('apples');
$$;

revoke all on function queue_drop from public;
