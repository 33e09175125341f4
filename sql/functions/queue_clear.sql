create or replace function queue_clear(
    queue text
)
returns bigint
language plpgsql
volatile
security definer
set search_path from current
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_sort = off
set jit = off
as $$
#variable_conflict use_column
declare
    v_cleared bigint := 0;
    -- Not from zero: queue_bury and queue_redrive may have put a job there that no sequence numbered.
    v_last bigint := '-9223372036854775808';
    v_ids bigint[];
    v_rows bigint;
begin
    if octet_length(queue_clear.queue) between 1 and 255 is not true then
        perform _queue_refuse_name(queue_clear.queue);
    end if;
    if session_user <> current_user
        or current_setting('session_authorization') = ''
        or current_setting('role') <> 'none'
    then
        perform _queue_allow(queue_clear.queue, 'manage');
    end if;
    -- In steps along the primary key: a join of all that is locked with all that is there
    -- can get a plan that takes the square of their number.
    loop
        v_ids := array(
            select j.id
            from queue_job j
            where j.queue = queue_clear.queue and j.id > v_last
            order by j.id
            limit 1000
            for update skip locked
        );
        exit when cardinality(v_ids) = 0;
        delete from queue_job j
        where j.queue = queue_clear.queue
            and j.id > v_last
            and j.id <= v_ids[cardinality(v_ids)]
            and j.id = any (v_ids);
        get diagnostics v_rows = row_count;
        v_cleared := v_cleared + v_rows;
        v_last := v_ids[cardinality(v_ids)];
    end loop;
    if v_cleared > 0 then
        insert into queue_tally (queue, moved) values (queue_clear.queue, - v_cleared);
    end if;
    return v_cleared;
end
$$;

comment on function queue_clear is $$
Remove all jobs of a queue, the scheduled and leased ones too. Its settings and its dead jobs stay.

A job that a transaction is taking at this moment is left to that transaction; the call
does not wait for it.

**queue**: name of the queue.

Returns how many jobs were removed.

Errors: 22023 for a bad name.

    select queue_clear('apples');
$$;

revoke all on function queue_clear from public;
