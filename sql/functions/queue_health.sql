create or replace function queue_health(
    older_than interval default '1 minute',
    transactions bigint default 100000
)
returns table (
    what text,
    severity text,
    subject text,
    detail text,
    remedy text
)
language plpgsql
volatile
rows 10
security definer
set search_path from current
-- For the reasons given in queue_get: the first few of a million jobs, whatever the statistics.
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_sort = off
set jit = off
as $$
#variable_conflict use_column
declare
    v_now timestamptz := clock_timestamp();
    v_older interval := least(greatest(coalesce(queue_health.older_than, '1 minute'), '0'), '1000 years');
    v_behind bigint := coalesce(queue_health.transactions, 100000);
    v_before timestamptz := v_now - v_older;
    -- In a transaction that wrote, age() counts to that transaction: this is what it misses.
    v_missed integer := greatest(- age(pg_snapshot_xmax(pg_current_snapshot())::xid), 0);
    v_schema text := current_schema();
    v_feedback_off text := 'end the long transaction on the standby, or, there: '
        || 'alter system set hot_standby_feedback = off; select pg_reload_conf()';
    v_taking xid[] := '{}';
    v_refused text[] := '{}';
    v_queue text collate "C";
    v_paused text[];
    v_usage float8 := 0;
    v_more boolean;
    v_leases bigint;
    v_lease_end timestamptz;
    v_due bigint;
    v_due_since timestamptz;
begin
    if session_user <> current_user
        or current_setting('session_authorization') = ''
        or current_setting('role') <> 'none'
    then
        perform _queue_allow('', 'observe', 'manage');
    end if;
    -- What holds vacuum back. A session does so in its own database only, as a prepared
    -- transaction; a slot or a standby in all of them. The true measure is how many
    -- transactions have begun since: none, and there is nothing to remove that it could hold.
    --
    -- All may see backend_xid and backend_xmin of all; the times only with rights.
    begin
        return query
        select
            'vacuum held back',
            case
                when v_now - h.since >= 10 * v_older or (h.since is null and h.held >= 10.0 * v_behind) then 'critical'
                else 'warning'
            end,
            case when h.is_standby then format('standby %s', h.application_name) else format('pid %s', h.pid) end,
            case
                when h.is_standby then
                    format(
                        'hot_standby_feedback (walsender pid %s, user %s): transactions since the standby''s oldest '
                        'snapshot: %s',
                        h.pid,
                        h.usename,
                        h.held
                    )
                else
                    format(
                        'user %s, application %L, %s; transactions since its snapshot or its first write: %s',
                        h.usename,
                        h.application_name,
                        coalesce(
                            h.state || ', in a transaction for ' || date_trunc('second', v_now - h.xact_start),
                            'state and time unknown'
                        ),
                        h.held
                    )
            end,
            case
                when h.is_standby then
                    v_feedback_off
                else
                    format('end its transaction, or: select pg_terminate_backend(%s)', h.pid)
            end
        from (
            select
                a.pid,
                a.usename,
                a.application_name,
                a.state,
                a.xact_start,
                a.backend_xid,
                a.backend_xmin,
                r.pid is not null and a.datid is null as is_standby,
                greatest(age(a.backend_xmin), age(a.backend_xid) - 1) + v_missed as held,
                -- Since when, as far as it can be known. A snapshot that is held between two
                -- statements, or a write, may be as old as the transaction. A statement that
                -- runs now may have brought a snapshot of its own, or use the transaction's.
                case
                    -- What a standby feeds back is as old as its own sessions.
                    when r.pid is not null and a.datid is null then null
                    when
                        a.backend_xid is not null
                        or a.state like 'idle in transaction%'
                        or v_now - a.xact_start < v_older
                    then a.xact_start
                    when v_now - a.query_start >= v_older then a.query_start
                end as since
            from pg_stat_activity a
            left join pg_stat_replication r on r.pid = a.pid
            where (
                    a.datid = (select d.oid from pg_database d where d.datname = current_database())
                    or (a.datid is null and r.pid is not null)
                )
                and a.backend_type is distinct from 'parallel worker'
                -- Vacuums don't hold back each other.
                and not exists (select from pg_stat_progress_vacuum v where v.pid = a.pid)
                and (not pg_is_in_recovery() or current_setting('hot_standby_feedback')::boolean)
        ) h
        where h.held > 0
            and case
                when h.since is not null then v_now - h.since >= v_older
                -- A new snapshot reaches back to the oldest transaction that writes. It is
                -- that one which holds vacuum back then.
                else
                    h.held >= v_behind
                    and (
                        h.backend_xid is not null
                        or age(h.backend_xmin) > age(pg_snapshot_xmin(pg_current_snapshot())::xid)
                    )
            end;

        -- Who may be taking jobs at this moment.
        v_taking := array(select a.backend_xid from pg_stat_activity a where a.backend_xid is not null);
    exception when insufficient_privilege then
        v_refused := array_append(v_refused, sqlerrm);
    end;

    begin
        return query
        select
            'vacuum held back',
            case
                when h.xmin is null then 'warning'
                when v_now - h.since >= 10 * v_older or h.held >= 10.0 * v_behind then 'critical'
                else 'warning'
            end,
            format('replication slot %s', h.slot_name),
            format(
                '%s slot, %s%s; transactions since its %s: %s',
                h.slot_type,
                case when h.active then format('active (pid %s)', h.active_pid) else 'not active' end,
                ' for ' || date_trunc('second', v_now - h.since),
                case
                    when h.xmin is null
                        then 'catalog_xmin, which keeps dead rows in the system catalogues, not in the queue''s tables'
                    else 'xmin'
                end,
                h.held
            ),
            case
                when not h.active then
                    format('start its reader, or, if there is none: select pg_drop_replication_slot(%L)', h.slot_name)
                when h.xmin is null then
                    format('let its reader (pid %s) catch up: find what keeps it back', h.active_pid)
                else
                    v_feedback_off
            end
        from (
            select
                s.slot_name,
                s.slot_type,
                s.active,
                s.active_pid,
                s.xmin,
                age(coalesce(s.xmin, s.catalog_xmin)) + v_missed as held,
                -- Known from PostgreSQL 17 on.
                case when not s.active then (to_jsonb(s) ->> 'inactive_since')::timestamptz end as since
            from pg_replication_slots s
            where s.wal_status is distinct from 'lost'
        ) h
        where h.held > 0 and (v_now - h.since >= v_older or h.held >= v_behind);
    exception when insufficient_privilege then
        v_refused := array_append(v_refused, sqlerrm);
    end;

    begin
        return query
        select
            'vacuum held back',
            case when v_now - p.prepared >= 10 * v_older then 'critical' else 'warning' end,
            format('prepared transaction %s', p.gid),
            format(
                'of user %s, prepared for %s; it keeps its locks, too; transactions since it wrote: %s',
                p.owner,
                date_trunc('second', v_now - p.prepared),
                age(p.transaction) - 1 + v_missed
            ),
            format('in database %s: commit prepared %L, or: rollback prepared %L', p.database, p.gid, p.gid)
        from pg_prepared_xacts p
        where p.database = current_database() and v_now - p.prepared >= v_older;

        v_taking := v_taking
            || array(select p.transaction from pg_prepared_xacts p where p.database = current_database());
    exception when insufficient_privilege then
        v_refused := array_append(v_refused, sqlerrm);
    end;

    begin
        return query
        select
            'dead rows',
            case when t.n_dead_tup > 500000 then 'critical' else 'warning' end,
            format('table %I.%I', t.schemaname, t.relname),
            format(
                '%s dead rows and %s live ones; last vacuum: %s, last autovacuum: %s',
                t.n_dead_tup,
                t.n_live_tup,
                coalesce(date_trunc('second', t.last_vacuum)::text, 'never'),
                coalesce(date_trunc('second', t.last_autovacuum)::text, 'never')
            ),
            format(
                'end what holds vacuum back, if a row here says so; then: vacuum %I.%I',
                t.schemaname,
                t.relname
            )
        from pg_stat_user_tables t
        where t.relid in ('queue_job'::regclass, 'queue_dead'::regclass)
            and t.n_dead_tup > 50000
            and t.n_dead_tup > 5 * t.n_live_tup;
    exception when insufficient_privilege then
        v_refused := array_append(v_refused, sqlerrm);
    end;

    -- One queue for the whole server. Its tail can't pass a session that listens and is in a
    -- transaction, or doesn't read what it is sent, whatever its database.
    begin
        v_usage := pg_notification_queue_usage();
        return query
        select
            'notification queue filling',
            case when v_usage > 0.5 then 'critical' else 'warning' end,
            'notification queue'::text,
            format('%s %% full. When it is full, every put that notifies fails', round((v_usage * 100)::numeric, 1)),
            'end the long transaction of the session that listens: one of those that a row here calls a stuck '
            || 'listener. Until then puts go through with notify => false'
        where v_usage > 0.1;

        return query
        select
            'listener stuck',
            case when v_usage > 0.5 then 'critical' else 'warning' end,
            format('pid %s', a.pid),
            format(
                'database %s, user %s, application %L, %s, in a transaction for %s: if it listens, it may hold the '
                'notifications of all',
                a.datname,
                a.usename,
                a.application_name,
                a.state,
                date_trunc('second', v_now - a.xact_start)
            ),
            format('end its transaction, or: select pg_terminate_backend(%s)', a.pid)
        from pg_stat_activity a
        where v_usage > 0.1
            and a.backend_type = 'client backend'
            and a.pid <> pg_backend_pid()
            and v_now - a.xact_start >= v_older;
    exception when insufficient_privilege then
        v_refused := array_append(v_refused, sqlerrm);
    end;

    -- Jobs that nobody takes. From name to name along the index, and at each no more than the
    -- first 1,000 jobs. This looks at all queues, so it is the one that names none.
    v_paused := array(select s.queue from queue_setting s where s.paused order by s.queue);
    v_queue := (
        select w.queue
        from queue_job w
        where w.ready_at is not null
        order by w.queue, w.ready_at
        limit 1
    );
    while v_queue is not null loop
        select
            count(*) >= 1000,
            count(*) filter (where l.is_free and l.receipt is not null),
            min(l.lease_until) filter (where l.is_free and l.receipt is not null),
            count(*) filter (where l.is_free and l.receipt is null),
            min(l.ready_at) filter (where l.is_free and l.receipt is null)
        into v_more, v_leases, v_lease_end, v_due, v_due_since
        from (
            select
                j.receipt,
                j.ready_at,
                coalesce(j.lease_until, j.ready_at) as lease_until,
                -- The lease may have been extended, and whoever takes the job at this moment
                -- is the last who wrote to the row.
                (j.receipt is null or coalesce(j.lease_until, j.ready_at) <= v_before)
                    and j.xmax <> all (v_taking) as is_free
            from queue_job j
            where j.queue = v_queue and j.ready_at is not null and j.ready_at <= v_before
            order by j.ready_at
            limit 1000
        ) l;

        if v_leases + v_due > 0 and v_queue <> all (v_paused) then
            return query
            select
                o.what,
                case when v_now - o.since >= 10 * v_older then 'critical' else 'warning' end,
                format('queue %s', v_queue),
                format(
                    'jobs %s, and nobody takes them: %s%s, the first for %s',
                    o.condition,
                    o.jobs,
                    case when v_more then ' or more' end,
                    date_trunc('second', v_now - o.since)
                ),
                format('start a worker for this queue, or: select %I.queue_maintain()', v_schema)
            from (
                values
                    ('leases overdue', v_leases, v_lease_end, 'whose lease has run out'),
                    ('due jobs overdue', v_due, v_due_since, 'that have come due')
            ) o (what, jobs, since, condition)
            where o.jobs > 0;
        end if;

        v_queue := (
            select w.queue
            from queue_job w
            where w.ready_at is not null and w.queue > v_queue
            order by w.queue, w.ready_at
            limit 1
        );
    end loop;

    foreach v_queue in array v_paused loop
        return query
        select
            'paused with jobs',
            'warning'::text,
            format('queue %s', v_queue),
            format(
                'the queue is paused, and jobs wait: %s%s, the first for %s',
                count(*) filter (where l.since <= v_before),
                case when count(*) >= 1000 then ' or more' end,
                date_trunc('second', v_now - min(l.since))
            ),
            format('select %I.queue_resume(%L)', v_schema, v_queue)
        from (
            (
                select greatest(j.enqueued_at, j.schedule_at) as since
                from queue_job j
                where j.queue = v_queue and j.ready_at is null
                order by j.rank, j.expected_at, j.id
                limit 1000
            )
            union all
            (
                select j.ready_at
                from queue_job j
                where j.queue = v_queue and j.ready_at is not null and j.ready_at <= v_before
                order by j.ready_at
                limit 1000
            )
        ) l
        having min(l.since) <= v_before;
    end loop;

    begin
        return query
        select
            o.what,
            o.severity,
            format('setting %s', s.name),
            format('%s = %s (source: %s): %s', s.name, s.setting, s.source, o.effect),
            case s.source
                when 'session' then format('set %s = on', s.name)
                when 'client' then format('take it out of the options of the connection, or: set %s = on', s.name)
                when 'user' then format('alter role %I reset %s; then connect anew', session_user, s.name)
                when 'database' then format('alter database %I reset %s; then connect anew', current_database(), s.name)
                when 'database user' then
                    format(
                        'alter role %I in database %I reset %s; then connect anew',
                        session_user,
                        current_database(),
                        s.name
                    )
                when 'command line' then format('start the server without %s=%s among its options', s.name, s.setting)
                else format('alter system set %s = on; select pg_reload_conf()', s.name)
            end
        from (
            values
                ('autovacuum', 'autovacuum off', 'critical', 'dead rows stay, and each take gets slower'),
                ('track_counts', 'autovacuum off', 'critical', 'autovacuum can''t tell which tables need it'),
                ('fsync', 'crash may lose jobs', 'critical', 'a crash of the machine may lose or ruin all data'),
                ('full_page_writes', 'crash may lose jobs', 'warning', 'a crash of the machine may leave torn pages'),
                ('synchronous_commit', 'crash may lose jobs', 'warning', 'a crash may lose the last jobs that were put')
        ) o (name, what, severity, effect)
        join pg_settings s on s.name = o.name and s.setting = 'off';
    exception when insufficient_privilege then
        v_refused := array_append(v_refused, sqlerrm);
    end;

    return query
    select
        'autovacuum off',
        case when t.name = 'queue_job' then 'critical' else 'warning' end,
        format('table %I.%I', v_schema, t.name),
        format('%s = %s: dead rows stay', o.option, o.value),
        format('alter table %I.%I reset (%s)', v_schema, t.name, o.option)
    from unnest(array['queue_job', 'queue_dead', 'queue_setting']) t (name)
    join pg_class c on c.oid = t.name::regclass
    left join pg_class b on b.oid = c.reltoastrelid
    cross join lateral (
        select r.option_name, r.option_value from pg_options_to_table(c.reloptions) r
        union all
        select 'toast.' || r.option_name, r.option_value from pg_options_to_table(b.reloptions) r
    ) o (option, value)
    where o.option in ('autovacuum_enabled', 'toast.autovacuum_enabled') and not o.value::boolean;

    return query
    select
        'wraparound near',
        case when age(d.datfrozenxid) > 1800000000 then 'critical' else 'warning' end,
        format('database %s', d.datname),
        format(
            'transactions since the oldest row that is not frozen: %s. At about 2,100,000,000 all writes stop',
            age(d.datfrozenxid)
        ),
        'end what holds vacuum back, if a row here says so; then, in this database: vacuum (freeze)'
    from pg_database d
    where d.datname = current_database() and age(d.datfrozenxid) > 1000000000;

    return query
    select
        'schema open to others',
        case when exists (select from queue_right) then 'critical' else 'warning' end,
        format('schema %I', v_schema),
        format('%s: so others could do what only role %I may, the owner of the queue', s.problem, current_user),
        s.remedy
    from _queue_strangers('queue_right') s;

    return query
    select
        'limited view',
        'warning'::text,
        format('role %s', current_user),
        'the owner of the queue may not see what other sessions do: sessions are judged by transactions, not by '
        || 'time, and stuck listeners are not seen'
        || coalesce('. ' || array_to_string(nullif(v_refused, '{}'), '. '), ''),
        format('grant pg_monitor to %I', current_user)
        || case when v_refused <> '{}' then format('; and grant to %I what PUBLIC has lost', current_user) else '' end
    where not pg_has_role('pg_read_all_stats', 'usage') or v_refused <> '{}';
end
$$;

comment on function queue_health is $$
What hurts the queue at this moment: one row for each thing found, none if all is well.

It looks at the whole server as far as that touches the queue, reads only, works on a standby,
and takes a few milliseconds however many jobs there are. It never fails for lack of rights; what
it can't see it says in a row. It shows neither jobs nor the text of queries.

**older_than**: report what has lasted this long, by default 1 minute; ten times this makes it
critical.
**transactions**: where the time isn't known (slots before PostgreSQL 17, standbys, all sessions if
the owner of the queue has no right to see them), report what has lasted for this many
transactions of the server instead, by default 100,000; ten times this makes it critical.

Returns **what** was found; **severity**, `warning` or `critical`; **subject**, the session, slot,
table, queue or setting it is about; **detail**; and **remedy**, in words, with the command. By
what:

`vacuum held back`: a session of this database, a replication slot, a standby or a prepared
transaction keeps dead rows from being removed; the queue gets slower from minute to minute.
`dead rows`: a table has above 50,000 of them, and more than five for each live row.
`notification queue filling`: above a tenth; above half is critical. `listener stuck`: while that
is so, a session in a long transaction that may be the cause.
`leases overdue`, `due jobs overdue`: jobs that could be taken, and nobody does. Jobs that are
being taken at this moment don't count. `paused with jobs`: they wait, and the queue is paused.
`autovacuum off`: on the server, or for a table of the queue.
`crash may lose jobs`: fsync, full_page_writes or synchronous_commit is off in this session.
`wraparound near`: above 1,000,000,000 transactions without a freezing vacuum.
`schema open to others`: others can make functions or operators in the queue's schema, or have
made some, that could be run with the rights of the queue's owner; or they may write to its tables.
`limited view`: the owner of the queue may not see other sessions.

    select * from queue_health() order by severity;
$$;

revoke all on function queue_health from public;
