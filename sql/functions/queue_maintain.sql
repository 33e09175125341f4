create or replace function queue_maintain()
returns table (
    task text,
    done bigint
)
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
    v_queues text[] := array(select n.name from _queue_names() as n (name));
    v_queue text;
    v_rows bigint;
    v_keep interval;
    v_delete bigint := 0;
    v_fold bigint := 0;
    v_correct bigint := 0;
    v_forget bigint := 0;
    v_promote bigint := 0;
begin
    if session_user <> current_user
        or current_setting('session_authorization') = ''
        or current_setting('role') <> 'none'
    then
        perform _queue_allow('', 'manage');
    end if;
    -- Each part passes over what others hold. What goes wrong with one queue is reported, and
    -- does not keep the others waiting.
    foreach v_queue in array v_queues loop
        begin
            v_keep := (select s.keep_dead_for from queue_setting s where s.queue = v_queue);
            if v_keep is not null and v_delete < 10000 then
                v_delete := v_delete + queue_dead_delete(
                    v_queue, died_before => clock_timestamp() - v_keep, count => (10000 - v_delete)::integer
                );
            end if;
            v_fold := v_fold + _queue_fold(v_queue, force => true);
        exception
            when others then
                raise warning 'queue_maintain: old dead jobs and totals of queue %: %', quote_ident(v_queue), sqlerrm
                    using errcode = sqlstate;
        end;
    end loop;

    -- Whoever changed the tables by hand has left the totals wrong. Where there is little to
    -- count they are put right; by one at a time, or they would be put right twice.
    if current_setting('transaction_isolation') = 'read committed'
        and pg_try_advisory_xact_lock(hashtextextended(current_schema() || '.queue_maintain', 0))
    then
        foreach v_queue in array v_queues loop
            begin
                insert into queue_tally (queue, moved, dead)
                select v_queue, j.rows - t.jobs, d.rows - t.dead
                from (
                    select count(*) as rows
                    from (select from queue_job j where j.queue = v_queue limit 1001) j
                ) j, (
                    select count(*) as rows
                    from (select from queue_dead d where d.queue = v_queue limit 1001) d
                ) d, (
                    select
                        coalesce(sum(
                            coalesce(t.put, 0) - coalesce(t.taken, 0) + coalesce(t.failed, 0) + coalesce(t.moved, 0)
                        ), 0) as jobs,
                        coalesce(sum(t.dead), 0) as dead
                    from (
                        select t.put, t.taken, t.failed, t.moved, t.dead
                        from queue_total t
                        where t.queue = v_queue
                        union all
                        select t.put, t.taken, t.failed, t.moved, t.dead
                        from queue_tally t
                        where t.queue = v_queue
                    ) t
                ) t
                where j.rows <= 1000 and d.rows <= 1000 and (j.rows <> t.jobs or d.rows <> t.dead);
                get diagnostics v_rows = row_count;
                v_correct := v_correct + v_rows;
            exception
                when others then
                    raise warning 'queue_maintain: totals of queue %: %', quote_ident(v_queue), sqlerrm
                        using errcode = sqlstate;
            end;
        end loop;

        if exists (select from queue_right) then
            begin
                lock table queue_right in share row exclusive mode nowait;
                delete from queue_right r where not exists (select from pg_roles a where a.oid = r.role);
                get diagnostics v_forget = row_count;
                -- An update of the extension or a restored dump may have left out EXECUTE.
                perform _queue_align();
            exception
                when lock_not_available then
                    null;  -- somebody gives or takes rights: the next call does it
                when others then
                    raise warning 'queue_maintain: rights: %', sqlerrm
                        using errcode = sqlstate;
            end;
        end if;
    end if;

    -- Last, because they stay locked until the end.
    foreach v_queue in array v_queues loop
        exit when v_promote >= 10000;
        begin
            v_rows := cardinality(_queue_promote(v_queue, '-infinity', clock_timestamp(), 1000));
            if v_rows > 0 then
                perform _queue_wake(v_queue);
                v_promote := v_promote + v_rows;
            end if;
        exception
            when others then
                raise warning 'queue_maintain: jobs of queue % that have come due: %', quote_ident(v_queue), sqlerrm
                    using errcode = sqlstate;
        end;
    end loop;

    return query
    values
        ('delete dead jobs', v_delete),
        ('fold totals', v_fold),
        ('correct totals', v_correct),
        ('forget rights', v_forget),
        ('promote due jobs', v_promote);
end
$$;

comment on function queue_maintain is $$
Do what must be done now and then, in all queues. Workers call it, pg_cron may, once a minute
or so. Nothing breaks if nobody does; dead jobs are then kept.

It does a bounded amount of work, and may be called by several at once: they pass over what
the others do. What can't be done in one queue is a warning, and the other queues are not
affected. Commit at once: until then others pass over what was promoted.

Returns one row for each task, with what was **done**: `delete dead jobs`, older than
the queue's `keep_dead_for`, 10,000 at most; `fold totals`, rows of queue_tally that were
added to queue_total, 10,000 of a queue at most; `correct totals`, queues of up to 1,000 jobs
and dead jobs whose totals did not fit them, because somebody wrote to the tables by hand;
`forget rights`, those of roles that were dropped (and EXECUTE is put right for those that have
rights, should a restored dump or an update of the extension have lost it);
`promote due jobs`, jobs that have come due and leases that ran out, 1,000 of a queue at most,
whose queues are notified.

Errors: none of its own. At READ COMMITTED it does all of it; above, what another transaction
touches at the same time is a warning or left for the next call, and totals are not corrected.

    select task, done from queue_maintain();
$$;

revoke all on function queue_maintain from public;
