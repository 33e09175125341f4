create or replace function queue_stats(
    queue text default null
)
returns table (
    name text,
    ready bigint,
    scheduled bigint,
    retrying bigint,
    leased bigint,
    dead bigint,
    paused boolean,
    oldest_ready_at timestamptz,
    next_due_at timestamptz,
    exact boolean,
    put bigint,
    taken bigint,
    completed bigint,
    failed bigint,
    died bigint
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
    v_now timestamptz := clock_timestamp();
    v_is_limited boolean :=
        session_user <> current_user
        or current_setting('session_authorization') = ''
        or current_setting('role') <> 'none';
    v_queue text;
    v_see record;
    v_jobs bigint;
    v_rest bigint;
    -- Of ready, scheduled, retrying, leased.
    v_shares float8[];
    v_counts bigint[];
    v_share float8;
begin
    if octet_length(queue_stats.queue) not between 1 and 255 then
        perform _queue_refuse_name(queue_stats.queue);
    end if;
    if v_is_limited and queue_stats.queue is not null then
        perform _queue_allow(queue_stats.queue, 'observe', 'manage');
    end if;
    for v_queue in
        select queue_stats.queue where queue_stats.queue is not null
        union all
        select n.name
        from _queue_names() as n (name)
        where queue_stats.queue is null and (not v_is_limited or _queue_may(n.name, 'observe', 'manage'))
    loop
        -- One statement, and so one snapshot: what is counted here and what was counted by
        -- those who put and took agree. Of each kind 1,000 are looked at, and one more that
        -- says whether there are more.
        select r.*, w.*, d.*, t.*
        into v_see
        from (
            select count(*) as ready_rows, min(greatest(j.schedule_at, j.enqueued_at)) as ready_since
            from (
                select j.schedule_at, j.enqueued_at
                from queue_job j
                where j.queue = v_queue and j.ready_at is null
                order by j.rank, j.expected_at, j.id
                limit 1001
            ) j
        ) r, (
            select
                count(*) as waiting_rows,
                count(*) filter (where j.due_at <= v_now) as due,
                min(j.ready_at) filter (where j.due_at <= v_now) as due_since,
                min(j.due_at) filter (where j.due_at > v_now) as next_due_at,
                count(*) filter (where j.due_at > v_now and j.receipt is null and j.attempts = 0) as scheduled,
                count(*) filter (where j.due_at > v_now and j.receipt is null and j.attempts > 0) as retrying,
                count(*) filter (where j.due_at > v_now and j.receipt is not null) as leased
            from (
                select j.ready_at, j.receipt, j.attempts, greatest(j.ready_at, j.lease_until) as due_at
                from queue_job j
                where j.queue = v_queue and j.ready_at is not null
                order by j.ready_at
                limit 1001
            ) j
        ) w, (
            select count(*) as dead_rows
            from (select from queue_dead d where d.queue = v_queue limit 1001) d
        ) d, (
            select
                coalesce(sum(t.put), 0)::bigint as put,
                coalesce(sum(t.taken), 0)::bigint as taken,
                coalesce(sum(t.completed), 0)::bigint as completed,
                coalesce(sum(t.failed), 0)::bigint as failed,
                coalesce(sum(t.moved), 0)::bigint as moved,
                coalesce(sum(t.dead), 0)::bigint as dead,
                coalesce(sum(t.died), 0)::bigint as died
            from (
                select t.put, t.taken, t.completed, t.failed, t.moved, t.dead, t.died
                from queue_total t
                where t.queue = v_queue
                union all
                select t.put, t.taken, t.completed, t.failed, t.moved, t.dead, t.died
                from queue_tally t
                where t.queue = v_queue
            ) t
        ) t;

        name := v_queue;
        put := v_see.put;
        taken := v_see.taken;
        completed := v_see.completed;
        failed := v_see.failed;
        died := v_see.died;
        dead := case when v_see.dead_rows > 1000 then greatest(v_see.dead, v_see.dead_rows) else v_see.dead_rows end;
        paused := exists (select from queue_setting s where s.queue = v_queue and s.paused);
        next_due_at := v_see.next_due_at;
        oldest_ready_at := least(v_see.ready_since, v_see.due_since);
        v_counts := array[v_see.ready_rows, v_see.scheduled, v_see.retrying, v_see.leased];

        v_jobs := v_see.put - v_see.taken + v_see.failed + v_see.moved;
        v_rest := greatest(v_jobs - v_see.ready_rows - v_see.waiting_rows, 0);
        if v_see.waiting_rows <= 1000 then
            exact := v_see.ready_rows <= 1000 or v_jobs >= v_see.ready_rows + v_see.waiting_rows;
            if v_see.ready_rows > 1000 then
                v_counts[1] := v_counts[1] + v_rest;
            end if;
        else
            exact := false;
            -- Those that were not looked at: as the sample that ANALYZE took of the queue, or
            -- without one as those that were, and as many ready as waiting.
            v_shares := (
                select array_agg(coalesce(m.share, 0) order by s.n)
                from unnest('{ready, scheduled, retrying, leased}'::text[]) with ordinality as s (state, n)
                left join (
                    select e.most_common_vals[i][2] as state, e.most_common_freqs[i] as share
                    from pg_stats_ext e, generate_subscripts(e.most_common_freqs, 1) as i
                    where e.statistics_schemaname = current_schema()
                        and e.statistics_name = 'queue_job_state'
                        and e.most_common_vals[i][1] = v_queue
                ) m on m.state = s.state
            );
            if (select sum(u) from unnest(v_shares) as u) > 0 is not true then
                v_shares := array[v_see.waiting_rows, v_counts[2], v_counts[3], v_counts[4]];
            end if;
            if v_see.ready_rows <= 1000 then
                v_shares[1] := 0;
            end if;
            -- What was seen is not expected again.
            v_share := (select sum(u) from unnest(v_shares) as u);
            v_shares := array(
                select greatest(u.share / nullif(v_share, 0) * v_jobs - u.seen, 0)
                from unnest(v_shares, v_counts) with ordinality as u (share, seen, n)
                order by u.n
            );
            v_share := (select sum(u) from unnest(v_shares) as u);
            if v_share > 0 is not true then
                v_shares := array[(v_see.ready_rows > 1000)::integer, 1, 0, 0];
                v_share := 1 + v_shares[1];
            end if;
            v_counts := array(
                select u.seen + round(u.share / v_share * v_rest)
                from unnest(v_shares, v_counts) with ordinality as u (share, seen, n)
                order by u.n
            );
            if next_due_at is null then
                -- More than 1,000 have come due and were not promoted.
                next_due_at := (
                    select min(greatest(j.ready_at, j.lease_until))
                    from (
                        select j.ready_at, j.lease_until
                        from queue_job j
                        where j.queue = v_queue and j.ready_at is not null and j.ready_at > v_now
                        order by j.ready_at
                        limit 100
                    ) j
                );
            end if;
        end if;
        ready := v_counts[1] + v_see.due;
        scheduled := v_counts[2];
        retrying := v_counts[3];
        leased := v_counts[4];

        if v_see.ready_rows > 1000 then
            -- Behind those that come first are jobs of lower priority, which may have waited
            -- for longer: the first of each priority, and those with the lowest ids.
            oldest_ready_at := least(
                oldest_ready_at,
                (
                    with recursive first (rank, since, n) as (
                        (
                            select j.rank, greatest(j.schedule_at, j.enqueued_at), 1
                            from queue_job j
                            where j.queue = v_queue and j.ready_at is null
                            order by j.rank, j.expected_at, j.id
                            limit 1
                        )
                        union all
                        select l.rank, l.since, f.n + 1
                        from first f
                        cross join lateral (
                            select j.rank, greatest(j.schedule_at, j.enqueued_at) as since
                            from queue_job j
                            where j.queue = v_queue and j.ready_at is null and j.rank > f.rank
                            order by j.rank, j.expected_at, j.id
                            limit 1
                        ) l
                        where f.n < 20
                    )
                    select min(f.since) from first f
                ),
                (
                    select min(greatest(j.schedule_at, j.enqueued_at)) filter (where j.ready_at is null)
                    from (
                        select j.ready_at, j.schedule_at, j.enqueued_at
                        from queue_job j
                        where j.queue = v_queue
                        order by j.id
                        limit 100
                    ) j
                )
            );
        end if;
        return next;
    end loop;
end
$$;

comment on function queue_stats is $$
What is in a queue, or in all of them, and what has gone through. The time does not grow with
the number of jobs.

**queue**: name of the queue; by default all queues that have jobs, dead jobs, settings or
totals, and that the caller may observe, sorted by name.

Returns one row for each queue.

What is there now: **name**; **ready**, jobs that could be taken now; **scheduled**, waiting
for their time; **retrying**, waiting after a failed attempt; **leased**, held by a consumer;
**dead**; **paused**.

**exact** is true if ready, scheduled, retrying and leased are exact: when no more than 1,000
jobs wait (are scheduled, retrying or leased), however many are ready. With more, their sum is
still exact, each of the four is at least what the first 1,000 show, and their shares are
those that ANALYZE found last (autovacuum runs it). Up to 1,000 dead jobs are counted, more
are known from the totals. Jobs that a transaction is taking at this moment still count.

**oldest_ready_at** is since when the job that has waited longest could have been taken. With
more than 1,000 ready jobs it is of those that would be taken first, the first of each
priority (of 20 at most) and those with the lowest ids: true unless priorities or expected
times are mixed, and then a job may be older. **next_due_at** is when the next waiting job
comes due.

What has gone through since the queue was made; these only grow, are exact, and count what
is committed: **put**, jobs that were put, those not among them whose dedupe_key was in the
queue already; **taken**, jobs that were handed out, counted when the attempt ends: when the
transaction of `queue_get` commits, when a leased job is completed or has failed, or its lease
has run out and somebody noticed; **completed**, those of them that ended with
`queue_complete`; **failed**, those that ended with `queue_error` or with their lease. The rest
of the taken were taken with `queue_get`. A job that was released, cancelled or cleared was
not taken. **died**, jobs that went to the dead: out of attempts, or buried; one that was
redriven and dies again counts again. `queue_drop` sets all to zero.

All this holds as long as only these functions write to the queue's tables.

Errors: 22023 for a bad name.

    select * from queue_stats('apples');
$$;

revoke all on function queue_stats from public;
