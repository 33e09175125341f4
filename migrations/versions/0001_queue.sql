-- The queue's tables, as they are now.
--
-- A *queue* is a name. It needs no making: the first job put under the name makes it.
-- `queue_setting` holds a row only for a queue that somebody configured or paused.
--
-- A *job* is one row of `queue_job` from the moment its put is committed until it is
-- done. It is in one of two conditions, told apart by one column:
--
--     ready      ready_at is null       it may be taken now
--     waiting    ready_at is not null   it becomes ready at that time
--
-- Three kinds of job wait, by the same mechanism: one scheduled for later, one backing
-- off after an error, and one leased to a consumer (a lease that runs out makes its job
-- ready again, without anybody's help). Each condition has an index of its own, so that
-- a million jobs scheduled for tomorrow cost the taker of today's jobs nothing.
--
-- A job is taken in the order: higher priority, then earlier expected_at (none comes
-- last), then lower id. All three are stored so that they sort upwards, which is what an
-- index scan and a row comparison need: `rank` is minus the priority, and no expectation
-- is 'infinity'.
--
-- Its life, transactional: queue_put -> queue_get, which deletes the row in the caller's
-- transaction. Commit, and the job is done; rollback, and it was never taken.
-- Its life, leased: queue_put -> lease -> complete, or error and wait, or, out of
-- attempts or unreadable, a row in `queue_dead` that says why. Nothing is thrown away.
--
-- What has gone through a queue is in `queue_total` and, for the latest calls, `queue_tally`.
-- What roles other than the owner may do with it is in `queue_right`.
--
-- Every statement names its queue, and the primary key starts with it: that is how the
-- table can be partitioned or distributed by queue. No foreign keys point here: they
-- would cost each put and get a look-up, and protect nothing that a queue has.
--
-- This file and functions/ are the truth; migrations/ say how a database gets here.
-- All names are unqualified: whoever runs the files sets the search_path to the schema
-- of the installation, and every function pins it (`set search_path from current`).

create table queue_job (
    -- Fixed widths first, the widest first: 16 bytes less per row than in reading order.
    id bigint generated always as identity (sequence name queue_job_id_seq),
    expected_at timestamptz not null default 'infinity',
    ready_at timestamptz,
    enqueued_at timestamptz not null,
    schedule_at timestamptz,
    -- The true end of the lease. Not indexed, so that a heartbeat is a HOT update; when
    -- ready_at has passed, whoever comes by looks here and pushes ready_at on.
    lease_until timestamptz,
    progress_count bigint,
    rank integer not null default 0,
    attempts integer not null default 0,
    max_attempts integer,
    receipt uuid,
    -- "C" sorts by bytes: fastest, the same everywhere, and an upgrade of the system's
    -- collations can't corrupt the indexes.
    queue text collate "C" not null,
    dedupe_key text collate "C",
    consumer text,
    last_error text,
    headers jsonb,
    -- One object for each failed attempt: attempt, at, consumer, error.
    history jsonb,
    -- What was put: exactly one of these three is not null. Over about 2 kB they are
    -- stored out of line and not copied when the rest of the row changes.
    data jsonb,
    data_text text,
    data_bytes bytea,
    constraint queue_job_pkey primary key (queue, id)
) with (
    -- A queue's table is small and dies fast: what matters is the number of dead rows at
    -- its head, not their share of the table.
    autovacuum_vacuum_scale_factor = 0,
    autovacuum_vacuum_threshold = 5000,
    autovacuum_vacuum_insert_scale_factor = 0.5,
    autovacuum_analyze_scale_factor = 0.2,
    autovacuum_analyze_threshold = 5000,
    autovacuum_vacuum_cost_delay = 0
);

comment on table queue_job is
    'The live jobs of all queues: ready, scheduled, backing off or leased. Written by the queue_ functions only.';

-- The predicates are literal: with a parameter in them a generic plan can't use the index.
--
-- A scan looks at all entries of the page that it begins on. With 50 of them instead of 170 a
-- get takes 53,000 instructions of 400,000 less, a put 3 % more, and the index three times the room.
-- No two entries are the same, so looking for duplicates is in vain (a fifth of a put of many).
create index queue_job_ready_idx on queue_job (queue, rank, expected_at, id)
with (fillfactor = 30, deduplicate_items = off)
where ready_at is null;

create index queue_job_waiting_idx on queue_job (queue, ready_at) where ready_at is not null;

create unique index queue_job_dedupe_idx on queue_job (queue, dedupe_key) where dedupe_key is not null;

-- How the jobs of a queue that are too many to count are divided: for queue_stats.
create statistics queue_job_state (mcv) on
    queue,
    (
        case
            when ready_at is null then 'ready'
            when receipt is not null then 'leased'
            when attempts = 0 then 'scheduled'
            else 'retrying'
        end
    )
from queue_job;

create table queue_dead (
    id bigint not null,
    died_at timestamptz not null,
    expected_at timestamptz,
    enqueued_at timestamptz,
    schedule_at timestamptz,
    progress_count bigint,
    priority integer not null default 0,
    attempts integer not null default 0,
    max_attempts integer,
    queue text collate "C" not null,
    reason text not null,
    dedupe_key text collate "C",
    consumer text,
    last_error text,
    headers jsonb,
    history jsonb,
    data jsonb,
    data_text text,
    data_bytes bytea,
    constraint queue_dead_pkey primary key (queue, id)
);

comment on table queue_dead is
    'Jobs that are out of attempts, can''t be decoded or were refused, each with the reason.';

create index queue_dead_died_at_idx on queue_dead (queue, died_at);

-- What is null is the default, which stands where it is used: max_attempts and retry_in in
-- _queue_fail, lease_for in queue_lease and queue_progress; the others mean no limit.
create table queue_setting (
    queue text collate "C" not null,
    created_at timestamptz not null default now(),
    paused boolean not null default false,
    max_attempts integer,
    lease_for interval,
    retry_in interval,
    max_depth bigint,
    max_bytes integer,
    keep_dead_for interval,
    constraint queue_setting_pkey primary key (queue)
);

comment on table queue_setting is
    'Queues that were created or paused by name. A queue without a row here works with the defaults.';

-- Totals. Each call that puts jobs or ends with them inserts a row of what it did; now and
-- then such a call, or queue_maintain, adds the rows of a queue up (_queue_fold). A row that
-- all calls update would be held until the end of the longest transaction, and be copied each
-- time: with an old snapshot held open, its copies would have to be walked over by each call.
-- Nobody ever waits for these rows, and what is rolled back was never counted.
--
-- The jobs of a queue are put - (taken - failed) + moved.
create table queue_tally (
    -- Null is none: it takes no room.
    put integer,
    taken integer,
    completed integer,
    failed integer,
    -- Jobs that came back from the dead, less those that died, were cancelled or cleared.
    moved integer,
    dead integer,
    -- Never less: dead goes down when jobs are redriven. The eighth column, and the last that costs nothing:
    -- with nine, each row is 8 bytes longer.
    died integer,
    queue text collate "C" not null
) with (
    autovacuum_vacuum_scale_factor = 0,
    autovacuum_vacuum_threshold = 5000,
    autovacuum_vacuum_cost_delay = 0
);

comment on table queue_tally is
    'What calls have put, taken and so on, a row for each call, until it is added to queue_total.';

-- A publication of all tables refuses the deletion of rows that it can't identify.
alter table queue_tally replica identity full;

create index queue_tally_queue_idx on queue_tally (queue);

-- A queue has more than one row where several transactions added up at the same time.
create table queue_total (
    id bigint generated always as identity,
    put bigint not null,
    taken bigint not null,
    completed bigint not null,
    failed bigint not null,
    moved bigint not null,
    dead bigint not null,
    died bigint not null,
    queue text collate "C" not null,
    constraint queue_total_pkey primary key (queue, id)
) with (
    fillfactor = 50,
    autovacuum_vacuum_scale_factor = 0,
    autovacuum_vacuum_threshold = 1000,
    autovacuum_vacuum_cost_delay = 0
);

comment on table queue_total is
    'Totals of each queue since it was made, but for the rows in queue_tally.';

-- Rights of roles other than the owner. They are on a name, whether there is such a queue or not; the empty name,
-- which no queue has, stands for all queues. A role and not its name: who is made anew under a name that was
-- dropped does not inherit. pg_dump writes the name, and pg_upgrade keeps it.
create table queue_right (
    granted_at timestamptz not null default now(),
    role regrole not null,
    queue text collate "C" not null,
    privilege text collate "C" not null,
    constraint queue_right_pkey primary key (queue, role, privilege)
);

comment on table queue_right is
    'What roles may do with queues, as queue_grant says. Written by it and its like only, which also grant EXECUTE.';

-- What ALTER DEFAULT PRIVILEGES gave on them to others (Supabase does so in public) would go around all rights, and
-- with a trigger run as whoever puts.
do $$
declare
    v_given record;
begin
    for v_given in
        select distinct
            case when c.relkind = 'S' then 'sequence' else 'table' end as kind,
            c.relname as name,
            case when a.grantee = 0 then 'public' else quote_ident(pg_get_userbyid(a.grantee)) end as grantee
        from pg_class r
        join pg_class c on c.relnamespace = r.relnamespace and c.relowner = r.relowner
        cross join aclexplode(c.relacl) a
        where r.oid = 'queue_right'::regclass
            and starts_with(c.relname, 'queue_')
            and c.relkind in ('r', 'S')
            and a.grantee <> c.relowner
    loop
        execute format('revoke all on %s %I from %s', v_given.kind, v_given.name, v_given.grantee);
    end loop;
end
$$;

-- Below this line `make sql` copies from sql/functions; edit the functions there.

-- functions/_queue_align.sql
create or replace function _queue_align(
    role regrole default null
)
returns bigint
language plpgsql
volatile
set search_path from current
as $$
declare
    v_schema text := current_schema();
    v_change record;
    v_changes bigint := 0;
begin
    for v_change in
        with wanted as (
            select distinct a.oid as role, f.name
            from queue_right r
            join pg_roles a on a.oid = r.role
            join _queue_functions() f on r.privilege = any (f.privileges)
            where r.role = _queue_align.role or _queue_align.role is null
        ), had as (
            select a.grantee as role, p.proname::text as name
            from pg_proc p
            cross join aclexplode(p.proacl) a
            where p.pronamespace = (select c.relnamespace from pg_class c where c.oid = 'queue_right'::regclass)
                and p.proname in (select f.name from _queue_functions() f)
                and a.grantor = p.proowner
                and a.grantee <> p.proowner
                -- What somebody granted by hand to a role that has no rights is left alone: it opens nothing.
                and (
                    a.grantee = _queue_align.role
                    or _queue_align.role is null and a.grantee in (select r.role from queue_right r)
                )
        )
        select
            pg_get_userbyid(coalesce(w.role, h.role)) as role,
            coalesce(w.name, h.name) as name,
            h.name is null as is_new
        from wanted w
        full join had h on h.role = w.role and h.name = w.name
        where (w.name is null or h.name is null)
            and coalesce(w.role, h.role) <> (select c.relowner from pg_class c where c.oid = 'queue_right'::regclass)
        order by 2, 1
    loop
        if v_change.is_new then
            execute format('grant execute on function %I.%I to %I', v_schema, v_change.name, v_change.role);
        else
            -- With what the role has granted on, where somebody gave it the grant option by hand.
            execute format('revoke execute on function %I.%I from %I cascade', v_schema, v_change.name, v_change.role);
        end if;
        v_changes := v_changes + 1;
    end loop;
    return v_changes;
end
$$;

comment on function _queue_align is
    'Private: give a role, or each that has rights, EXECUTE on the functions that its rights need, and take it away from the others. What changes a function may lose grants, and what adds one makes it without. Gives the number of changes.';

revoke all on function _queue_align from public;

-- functions/_queue_allow.sql
create or replace function _queue_allow(
    queue text,
    variadic privileges text[]
)
returns void
language plpgsql
volatile
set search_path from current
as $$
declare
    v_caller text := coalesce(_queue_caller(), 'nobody');
begin
    if _queue_may(queue, variadic privileges) then
        return;
    end if;
    if 'grant' = any (privileges) then
        raise exception using
            errcode = 'insufficient_privilege',
            message = format('role %I can''t give or take rights on queues', v_caller),
            hint = format('The owner can, role %I, and whoever has the rights of that role.', current_user);
    end if;
    raise exception using
        errcode = 'insufficient_privilege',
        message = format(
            'role %I has no right to %s on %s',
            v_caller,
            privileges[1],
            case when queue = '' then 'all queues' else format('queue %I', queue) end
        ),
        hint = format(
            'Ask role %I for it: select %I.%s',
            current_user,
            current_schema(),
            case
                when queue = '' then format('queue_grant_all(%L, %L)', v_caller, privileges[1])
                else format('queue_grant(%L, %L, %L)', queue, v_caller, privileges[1])
            end
        );
end
$$;

comment on function _queue_allow is
    'Private: raises 42501 unless the caller has one of these privileges on a queue (see _queue_may). Each function asks first of all, unless its owner calls: that is told apart without a call, so that the owner pays next to nothing. Those that are called most ask _queue_may themselves.';

revoke all on function _queue_allow from public;

-- functions/_queue_caller.sql
create or replace function _queue_caller()
returns text
language sql
stable
-- As _queue_key. Inside our functions current_user is their owner. Who calls is the role that was set with
-- SET ROLE (as gateways do that connect as one role for all), or else whoever connected: nobody in autovacuum, which
-- evaluates the functions in anybody's index, and whose session_user is a superuser. Elsewhere session_user is right,
-- and the setting is the name of before where the role was renamed since: by now another may have it.
return coalesce(
    nullif(current_setting('role'), 'none'),
    case when current_setting('session_authorization') <> '' then cast(session_user as text) end
);

comment on function _queue_caller is
    'Private: the role that calls, in a function that runs with the rights of the owner; null where no client does.';

revoke all on function _queue_caller from public;

-- functions/_queue_channel.sql
create or replace function _queue_channel(
    queue text
)
returns text
language sql
stable
-- As _queue_key; the schema is that of the function which this becomes a part of.
-- Hashed because LISTEN cuts names after 63 bytes in silence, and pg_notify refuses them.
return 'queue_' || to_hex(hashtextextended(current_schema() || '.' || queue collate "C", 0));

comment on function _queue_channel is
    'Private: as queue_channel, for a name that is known to be good.';

revoke all on function _queue_channel from public;

-- functions/_queue_check_json.sql
create or replace function _queue_check_json(
    data jsonb
)
returns void
language plpgsql
stable
set search_path from current
as $$
declare
    v_bytes integer := 1073741823;
begin
    begin
        v_bytes := octet_length(data::text);
    exception
        when program_limit_exceeded then null;  -- more than can be a text at all
    end;
    if v_bytes > 536870911 then
        raise exception using
            errcode = 'QU002',
            message = format('the data have %s bytes as text, and a job takes 536870911 at most', v_bytes),
            hint = 'Put where to find it; or give large numbers and control characters as another text.';
    end if;
end
$$;

comment on function _queue_check_json is
    'Private: refuse JSON that is too large as text (QU002): a number of 12 bytes, 1e131071, is one of 131,072 there. What has more than 1 GB can''t be sent. Each take would fail, and the job be at the head again.';

revoke all on function _queue_check_json from public;

-- functions/_queue_check_limits.sql
create or replace function _queue_check_limits(
    queue text,
    bytes integer,
    count bigint
)
returns void
language plpgsql
volatile
set search_path from current
set enable_seqscan = off
as $$
#variable_conflict use_column
declare
    v_max_bytes integer;
    v_max_depth bigint;
    v_depth bigint;
begin
    select s.max_bytes, s.max_depth
    into v_max_bytes, v_max_depth
    from queue_setting s
    where s.queue = _queue_check_limits.queue;
    if bytes > v_max_bytes then
        raise exception using
            errcode = 'QU002',
            message = format('the data have %s bytes, and queue %I takes %s at most', bytes, queue, v_max_bytes),
            hint = 'Put less, or where to find it; or raise max_bytes with queue_create.';
    end if;
    if v_max_depth is null or count = 0 then
        return;
    end if;
    v_depth := (
        select count(*)
        from (select from queue_job j where j.queue = _queue_check_limits.queue limit v_max_depth) j
    );
    if v_depth + count > v_max_depth then
        raise exception using
            errcode = 'QU001',
            message = format(
                'queue %I is full: it holds %s jobs of at most %s, and %s more were put',
                queue, v_depth, v_max_depth, count
            ),
            hint = 'Put again when some are done; or raise max_depth with queue_create.';
    end if;
end
$$;

comment on function _queue_check_limits is
    'Private: refuse COUNT more jobs, the largest of BYTES bytes, where a queue has limits: QU001 for one that is full, QU002 for data that are too large.';

revoke all on function _queue_check_limits from public;

-- functions/_queue_claim.sql
create or replace function _queue_claim(
    queue text,
    count integer,
    promoted bigint[]
)
returns bigint[]
language plpgsql
volatile
set search_path from current
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_sort = off
set jit = off
as $$
declare
    v_begin timestamptz := clock_timestamp();
    -- The same queue of another installation in this database has another name.
    v_name text := 'pgq_py.head_' || to_hex(hashtextextended(queue, 'queue_job'::regclass::oid::bigint));
    -- What the session remembers: until when, what the look from the start took, where the head
    -- was, and what else is looked for: what ranks before it (t or f; far: not known yet), or what has come due,
    -- from where that is remembered to begin (due), or nothing (near).
    v_head text[] := string_to_array(current_setting(v_name, true), ' ');
    v_until float8 := v_head[1];
    v_cost float8 := v_head[2];
    v_last bigint := pg_sequence_last_value('queue_job_id_seq'::regclass);
    v_pages bigint := pg_stat_get_xact_blocks_fetched('queue_job_ready_idx'::regclass);
    v_due text := coalesce(current_setting(replace(v_name, 'head', 'due'), true), '');
    -- Until when, and which queue says so.
    v_flag text := nullif(current_setting('pgq_py.has_head', true), '');
    v_ids bigint[];
    v_found record;
begin
    -- The head is far away, and something has come due: the best of both.
    if v_cost > 0.001 and extract(epoch from v_begin) between v_until - 31 and v_until then
        v_ids := promoted || _queue_follow(queue, null, count);
        return array(
            select u.id
            from (select distinct unnest(v_ids) as id) u
            cross join lateral (
                select j.rank, j.expected_at
                from queue_job j
                where j.queue = _queue_claim.queue and j.id = u.id
                limit 1
            ) j
            order by j.rank, j.expected_at, u.id
            limit _queue_claim.count
        );
    end if;
    select array_agg(c.id) as ids, (array_agg(c.rank))[1] as rank, (array_agg(c.expected_at))[1] as expected_at
    into v_found
    from (
        select j.id, j.rank, j.expected_at
        from queue_job j
        where j.queue = _queue_claim.queue and j.ready_at is null
        order by j.rank, j.expected_at, j.id
        limit _queue_claim.count
        for update skip locked
    ) c;
    v_cost := extract(epoch from clock_timestamp() - v_begin);
    -- What goes around the dead rows costs as much as some 0.1 ms among them. The pages are not those that
    -- the jobs lie in.
    if v_cost > 0.0001
        and pg_stat_get_xact_blocks_fetched('queue_job_ready_idx'::regclass) - v_pages
            > 64 + coalesce(cardinality(v_found.ids), 0) / 4
    then
        perform set_config(
            v_name,
            concat_ws(
                ' ',
                extract(epoch from v_begin) + v_cost + least(greatest(20 * v_cost, 0.1), 30),
                v_cost,
                -- Nothing there: what is put from now on has a higher id.
                coalesce(v_found.rank, 0),
                -- As text that any DateStyle reads, without spaces: a year before Christ has one.
                replace(to_jsonb(coalesce(v_found.expected_at, 'infinity')) #>> '{}', ' ', ''),
                coalesce(v_found.ids[1], v_last, 0),
                case when v_cost > 0.001 then 'far' when v_due <> '' then 'due' else 'near' end
            ),
            false
        );
        -- For longer than any head is remembered the session's calls go around dead rows, on all its queues.
        perform set_config('pgq_py.has_head', concat(extract(epoch from v_begin) + 31, ' ', queue), false);
    else
        if v_head <> '{}' then
            perform set_config(v_name, '', false);
        end if;
        if split_part(v_flag, ' ', 1)::float8 < extract(epoch from v_begin)
            or substr(v_flag, position(' ' in v_flag) + 1) = queue
            and v_due = ''
        then
            perform set_config('pgq_py.has_head', '', false);
        end if;
    end if;
    return coalesce(v_found.ids, '{}');
end
$$;

comment on function _queue_claim is
    'Private: lock the first COUNT ready jobs and give their ids in order. Where the dead rows of jobs that were taken lie before them (vacuum has not come by, or an old snapshot keeps them), the session remembers where the head was, and looks again from the very start after 20 times what that took, at least 0.1 s and at most 30. For so long it passes over a job that comes back before the head, with the head''s own priority and expected_at. PROMOTED are ids that the caller has just made ready.';

revoke all on function _queue_claim from public;

-- functions/_queue_class.sql
create or replace function _queue_class()
returns integer
language sql
stable
-- As _queue_key.
return (cast(cast(cast('queue_job' as regclass) as oid) as bigint) - 2147483648)::integer;

comment on function _queue_class is
    'Private: the first half of advisory locks of this installation. With 0 to 63: held, shared, by transactions that make jobs of some queues ready. With 64: by sessions that sleep on many queues.';

revoke all on function _queue_class from public;

-- functions/_queue_count_attempt.sql
create or replace function _queue_count_attempt(
    queue text,
    id bigint,
    now timestamptz
)
returns boolean
language plpgsql
volatile
set search_path from current
set enable_seqscan = off
-- The next taker may have the job already, and keep its transaction open.
set lock_timeout = '1s'
as $$
#variable_conflict use_column
declare
    v_ran_out boolean;
begin
    select j.receipt is not null
    into v_ran_out
    from queue_job j
    where j.queue = _queue_count_attempt.queue
        and j.id = _queue_count_attempt.id
        and (j.receipt is null or j.lease_until <= _queue_count_attempt.now)
        -- Nobody has taken what is scheduled for later.
        and (j.ready_at is null or j.ready_at <= _queue_count_attempt.now or j.attempts > 0)
    for update;
    if not found then
        return false;
    end if;
    -- A lease that ran out before is a failed attempt of its own.
    if v_ran_out and not _queue_fail(_queue_count_attempt.queue, _queue_count_attempt.id, 'the lease ran out', '0') then
        return false;
    end if;
    update queue_job j
    set attempts = j.attempts + 1, consumer = null
    where j.queue = _queue_count_attempt.queue and j.id = _queue_count_attempt.id;
    return true;
exception
    when lock_not_available then
        return false;
end
$$;

comment on function _queue_count_attempt is
    'Private: count an attempt that was made in a transaction and rolled back. False if the job is not there, is leased, or is held by a transaction for longer than a second.';

revoke all on function _queue_count_attempt from public;

-- functions/_queue_due.sql
create or replace function _queue_due(
    queue text,
    now timestamptz
)
returns timestamptz
language plpgsql
volatile
set search_path from current
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_sort = off
set jit = off
as $$
declare
    v_begin timestamptz := clock_timestamp();
    -- What the session remembers: until when, and before which time nothing is left that is due.
    v_name text := 'pgq_py.due_' || to_hex(hashtextextended(queue, 'queue_job'::regclass::oid::bigint));
    v_mark text[] := string_to_array(current_setting(v_name, true), ' ');
    v_until float8 := v_mark[1];
    v_from timestamptz := '-infinity';
    v_due timestamptz;
    -- Those of the table, too: thousands of jobs that were due at the same time share a few pages of the index.
    v_pages bigint := pg_stat_get_xact_blocks_fetched('queue_job_waiting_idx'::regclass)
        + pg_stat_get_xact_blocks_fetched('queue_job'::regclass);
begin
    if extract(epoch from v_begin) between v_until - 31 and v_until then
        v_from := v_mark[2];
    end if;
    v_due := (
        select j.ready_at
        from queue_job j
        where j.queue = _queue_due.queue
            and j.ready_at is not null
            and j.ready_at >= v_from
            and j.ready_at <= _queue_due.now
        order by j.ready_at
        limit 1
    );
    v_pages := pg_stat_get_xact_blocks_fetched('queue_job_waiting_idx'::regclass)
        + pg_stat_get_xact_blocks_fetched('queue_job'::regclass) - v_pages;
    if v_pages > 32 then
        if v_from = '-infinity' then
            v_until := extract(epoch from v_begin)
                + least(greatest(20 * extract(epoch from clock_timestamp() - v_begin), 0.1), 30);
        end if;
        perform set_config(
            v_name, concat_ws(' ', v_until, to_jsonb(coalesce(v_due, _queue_due.now)) #>> '{}'), false
        );
        -- As in _queue_claim.
        perform set_config('pgq_py.has_head', concat(extract(epoch from v_begin) + 31, ' ', queue), false);
    elsif v_from = '-infinity' and v_until is not null then
        perform set_config(v_name, '', false);
    end if;
    return v_due;
end
$$;

comment on function _queue_due is
    'Private: when the first of the jobs that have come due did so, null if none has. As in _queue_claim the session remembers where dead rows end, and looks again from the very start after 20 times what that took, at least 0.1 s and at most 30.';

revoke all on function _queue_due from public;

-- functions/_queue_fail.sql
create or replace function _queue_fail(
    queue text,
    id bigint,
    error text,
    retry_in interval default null,
    bury boolean default false
)
returns boolean
language plpgsql
volatile
set search_path from current
set enable_seqscan = off
as $$
#variable_conflict use_column
declare
    v_now timestamptz := clock_timestamp();
    v_job record;
    -- The end of a long one: a traceback says there what was raised.
    v_error text := right(coalesce(error, 'no reason was given'), 2000);
    -- For the eye: of a traceback the last line, which says what was raised.
    v_reason text := (regexp_match(v_error, E'([^\n]*)[[:space:]]*$'))[1];
    v_history jsonb;
    v_max_attempts integer;
    v_retry_in interval := retry_in;
begin
    select
        j.attempts, j.consumer, j.history, j.max_attempts,
        s.max_attempts as queue_max_attempts, s.retry_in as queue_retry_in
    into strict v_job
    from queue_job j
    left join queue_setting s on s.queue = _queue_fail.queue
    where j.queue = _queue_fail.queue and j.id = _queue_fail.id;

    v_history := coalesce(v_job.history, '[]') || jsonb_build_object(
        'attempt', v_job.attempts, 'at', v_now, 'consumer', v_job.consumer, 'error', v_error
    );
    -- A job that may be tried very often keeps its last attempts: the row is copied each time.
    if jsonb_array_length(v_history) > 50 then
        v_history := v_history - 0;
    end if;

    v_max_attempts := coalesce(v_job.max_attempts, v_job.queue_max_attempts, 5);
    if _queue_fail.bury or v_job.attempts >= v_max_attempts then
        delete from queue_dead d where d.queue = _queue_fail.queue and d.id = _queue_fail.id;
        insert into queue_tally (queue, taken, failed, moved, dead, died)
        values (_queue_fail.queue, 1, 1, -1, case when found then 0 else 1 end, case when found then 0 else 1 end);
        with gone as (
            delete from queue_job j where j.queue = _queue_fail.queue and j.id = _queue_fail.id returning j.*
        )
        insert into queue_dead (
            queue, id, died_at, reason, data, data_text, data_bytes, priority, enqueued_at, schedule_at,
            expected_at, attempts, max_attempts, last_error, progress_count, consumer, dedupe_key, headers, history
        )
        select
            g.queue,
            g.id,
            v_now,
            case
                when _queue_fail.bury then v_reason
                else format('attempt %s of %s failed: %s', g.attempts, v_max_attempts, v_reason)
            end,
            g.data, g.data_text, g.data_bytes, - g.rank, g.enqueued_at, g.schedule_at,
            nullif(g.expected_at, 'infinity'), g.attempts, g.max_attempts, v_error, g.progress_count,
            g.consumer, g.dedupe_key, g.headers, v_history
        from gone g;
        return false;
    end if;

    if v_retry_in is null then
        -- Doubled with each attempt, up to six hours; the jitter (half to one and a half of it)
        -- keeps jobs that failed together from coming back together.
        v_retry_in := least(
            coalesce(v_job.queue_retry_in, '10 seconds') * power(2, least(greatest(v_job.attempts, 1), 16) - 1),
            greatest(v_job.queue_retry_in, '6 hours')
        ) * (0.5 + random());
    end if;
    update queue_job j
    set ready_at = case when v_retry_in > interval '0' then v_now + v_retry_in end,
        receipt = null,
        lease_until = null,
        last_error = v_error,
        history = v_history
    where j.queue = _queue_fail.queue and j.id = _queue_fail.id;
    insert into queue_tally (queue, taken, failed) values (_queue_fail.queue, 1, 1);
    return true;
end
$$;

comment on function _queue_fail is
    'Private: an attempt of a job, whose row the caller has locked, has failed. True: it is back in the queue, after RETRY_IN or the queue''s backoff. False: it is among the dead, because its attempts are used up or BURY says so.';

revoke all on function _queue_fail from public;

-- functions/_queue_find.sql
create or replace function _queue_find(
    queue text,
    dedupe_key text
)
returns bigint
language plpgsql
volatile
set search_path from current
set enable_seqscan = off
as $$
begin
    -- Above READ COMMITTED two may be seen: one that was taken after the snapshot was made, and the
    -- one that this transaction has put since. The later id is the one that is there. OFFSET keeps
    -- max from becoming a walk along the primary key.
    return (
        select max(f.id)
        from (
            select j.id
            from queue_job j
            where j.queue = _queue_find.queue and j.dedupe_key = _queue_find.dedupe_key
            offset 0
        ) f
    );
end
$$;

comment on function _queue_find is
    'Private: the id of the live job with this dedupe_key, null if there is none.';

revoke all on function _queue_find from public;

-- functions/_queue_fold.sql
create or replace function _queue_fold(
    queue text,
    force boolean default false,
    guarded boolean default false
)
returns integer
language plpgsql
volatile
set search_path from current
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_sort = off
set jit = off
as $$
#variable_conflict use_column
declare
    v_begin timestamptz := clock_timestamp();
    v_excess float8;
    v_rows tid[];
    v_sum record;
    v_id bigint;
begin
    -- When this session folds again, in seconds since 1970; as text, since anybody may set it.
    if not _queue_fold.force
        and coalesce(current_setting('pgq_py.fold_after', true), '') collate "C" > extract(epoch from v_begin)::text
    then
        return 0;
    end if;
    -- Above READ COMMITTED a row that somebody else has folded since the snapshot is an error (40001). SERIALIZABLE
    -- makes that of what was only read, and of a put as well: there queue_maintain folds, now and then.
    if current_setting('transaction_isolation') <> 'read committed' and not _queue_fold.guarded then
        if current_setting('transaction_isolation') = 'serializable' and not _queue_fold.force then
            return 0;
        end if;
        begin
            return _queue_fold(_queue_fold.queue, _queue_fold.force, guarded => true);
        exception
            when serialization_failure then
                perform set_config('pgq_py.fold_after', (extract(epoch from v_begin) + 1)::text, false);
                return 0;
        end;
    end if;
    -- Nothing here waits: what another transaction is folding is left to it. If that one is
    -- rolled back it has been folded by nobody, and is there for the next.
    v_rows := array(
        select t.ctid from queue_tally t where t.queue = _queue_fold.queue limit 10000 for update skip locked
    );
    if v_rows <> '{}' then
        with gone as (
            delete from queue_tally t where t.queue = _queue_fold.queue and t.ctid = any (v_rows) returning t.*
        )
        select
            coalesce(sum(g.put), 0) as put,
            coalesce(sum(g.taken), 0) as taken,
            coalesce(sum(g.completed), 0) as completed,
            coalesce(sum(g.failed), 0) as failed,
            coalesce(sum(g.moved), 0) as moved,
            coalesce(sum(g.dead), 0) as dead,
            coalesce(sum(g.died), 0) as died
        into v_sum
        from gone g;
        select t.id
        into v_id
        from queue_total t
        where t.queue = _queue_fold.queue
        order by t.id
        limit 1
        for update skip locked;
        if found then
            update queue_total t
            set put = t.put + v_sum.put,
                taken = t.taken + v_sum.taken,
                completed = t.completed + v_sum.completed,
                failed = t.failed + v_sum.failed,
                moved = t.moved + v_sum.moved,
                dead = t.dead + v_sum.dead,
                died = t.died + v_sum.died
            where t.queue = _queue_fold.queue and t.id = v_id;
        else
            insert into queue_total (queue, put, taken, completed, failed, moved, dead, died)
            values (
                _queue_fold.queue, v_sum.put, v_sum.taken, v_sum.completed, v_sum.failed, v_sum.moved, v_sum.dead,
                v_sum.died
            );
        end if;
    end if;
    -- While an old snapshot is held open, folded rows stay to be walked over by the next. What
    -- took longer than the rows that were folded are worth is no more than a hundredth of the
    -- session's time.
    v_excess := extract(epoch from clock_timestamp() - v_begin) - 0.001 - 0.00002 * cardinality(v_rows);
    if v_excess > 0 and not _queue_fold.force then
        perform set_config('pgq_py.fold_after', (extract(epoch from v_begin) + 100 * v_excess)::text, false);
    end if;
    return cardinality(v_rows);
end
$$;

comment on function _queue_fold is
    'Private: add up to 10,000 rows of queue_tally to the queue''s totals, and remove them. Gives their number. Waits for nobody, and does nothing where others have folded since the snapshot of a transaction above READ COMMITTED, nor, unless by FORCE, at SERIALIZABLE or where this session has lately spent much time on it. GUARDED is for itself.';

revoke all on function _queue_fold from public;

-- functions/_queue_follow.sql
create or replace function _queue_follow(
    queue text,
    now timestamptz,
    count integer
)
returns bigint[]
language plpgsql
volatile
set search_path from current
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_sort = off
set jit = off
as $$
declare
    v_name text := 'pgq_py.head_' || to_hex(hashtextextended(queue, 'queue_job'::regclass::oid::bigint));
    -- As _queue_claim and _queue_due have set them.
    v_head text[] := string_to_array(current_setting(v_name, true), ' ');
    v_due text[] := string_to_array(current_setting(replace(v_name, 'head', 'due'), true), ' ');
    v_until float8 := v_head[1];
    v_is_far boolean := v_head[2]::float8 > 0.001;
    v_before integer := 0;
    v_pages bigint;
    v_rows_pages bigint;
    v_ids bigint[] := '{}';
begin
    -- A clock that was put back must not make it last.
    if (extract(epoch from now) between v_until - 31 and v_until) is not true and now is not null
        or extract(epoch from now) >= v_due[1]::float8
    then
        return null;
    end if;
    if now is not null then
        v_pages := pg_stat_get_xact_blocks_fetched('queue_job'::regclass);
        if (
            select j.ready_at
            from queue_job j
            where j.queue = _queue_follow.queue and j.ready_at is not null
                and j.ready_at >= coalesce(v_due[2]::timestamptz, '-infinity')
                and j.ready_at <= _queue_follow.now
            order by j.ready_at
            limit 1
        ) is not null then
            return null;
        end if;
        if pg_stat_get_xact_blocks_fetched('queue_job'::regclass) - v_pages > 32 then
            -- The next need not walk over the jobs that came due, or were leased, and are gone.
            perform set_config(
                replace(v_name, 'head', 'due'),
                concat_ws(' ', coalesce(v_due[1], v_head[1]), to_jsonb(_queue_follow.now) #>> '{}'),
                false
            );
            v_head[6] := replace(v_head[6], 'near', 'due');
            perform set_config(v_name, array_to_string(v_head, ' '), false);
        end if;
    end if;
    -- A head that is far away is used for long. What ranks before it shall not wait, unless there
    -- too lie so many dead rows that looking costs too much.
    if v_is_far and v_head[6] <> 'f' then
        v_pages := pg_stat_get_xact_blocks_fetched('queue_job_ready_idx'::regclass);
        v_ids := array(
            select j.id
            from queue_job j
            where j.queue = _queue_follow.queue and j.ready_at is null and j.rank < v_head[3]::integer
            order by j.rank, j.expected_at, j.id
            limit _queue_follow.count
            for update skip locked
        );
        -- Not both as one comparison of rows: before PostgreSQL 18 that ends no scan but by its first column.
        if cardinality(v_ids) < _queue_follow.count then
            v_ids := v_ids || array(
                select j.id
                from queue_job j
                where j.queue = _queue_follow.queue and j.ready_at is null and j.rank = v_head[3]::integer
                    and j.expected_at < v_head[4]::timestamptz
                order by j.rank, j.expected_at, j.id
                limit _queue_follow.count - cardinality(v_ids)
                for update skip locked
            );
        end if;
        v_before := cardinality(v_ids);
        if pg_stat_get_xact_blocks_fetched('queue_job_ready_idx'::regclass) - v_pages > 32 + v_before / 4 then
            v_head[6] := 'f';
            perform set_config(v_name, array_to_string(v_head, ' '), false);
        elsif v_head[6] = 'far' then
            v_head[6] := 't';
            perform set_config(v_name, array_to_string(v_head, ' '), false);
        end if;
    end if;
    v_pages := pg_stat_get_xact_blocks_fetched('queue_job_ready_idx'::regclass);
    v_rows_pages := pg_stat_get_xact_blocks_fetched('queue_job'::regclass);
    select v_ids || array(
        select j.id
        from queue_job j
        where j.queue = _queue_follow.queue and j.ready_at is null
            and (j.rank, j.expected_at, j.id)
                >= (v_head[3]::integer, v_head[4]::timestamptz, v_head[5]::bigint)
        order by j.rank, j.expected_at, j.id
        limit _queue_follow.count - v_before
        for update skip locked
    )
    into v_ids
    where not exists (select from queue_setting s where s.queue = _queue_follow.queue and s.paused);
    if v_ids is null then
        return null;
    end if;
    if cardinality(v_ids) > v_before
        -- Entries that are known to be dead cost their page of the index, others a look at their row.
        and (
            pg_stat_get_xact_blocks_fetched('queue_job_ready_idx'::regclass) - v_pages > 5
            or pg_stat_get_xact_blocks_fetched('queue_job'::regclass) - v_rows_pages > 16 + 2 * cardinality(v_ids)
        )
    then
        -- On to the first of those: the next need not walk again over what lay before it.
        perform set_config(
            v_name,
            (
                select concat_ws(
                    ' ',
                    v_head[1],
                    v_head[2],
                    j.rank,
                    replace(to_jsonb(j.expected_at) #>> '{}', ' ', ''),
                    j.id,
                    v_head[6]
                )
                from queue_job j
                where j.queue = _queue_follow.queue and j.id = v_ids[v_before + 1]
            ),
            false
        );
    end if;
    -- Too few, and a look from the start costs next to nothing: that is what comes next.
    if cardinality(v_ids) < _queue_follow.count and not v_is_far then
        return null;
    end if;
    return v_ids;
end
$$;

comment on function _queue_follow is
    'Private: lock the first COUNT ready jobs from where the session remembers the head to be, and give their ids in order. Null where nothing is remembered, something has come due by NOW or the queue is paused. NOW is null for a caller who knows that the head is remembered, and has dealt with what is due.';

revoke all on function _queue_follow from public;

-- functions/_queue_functions.sql
create or replace function _queue_functions()
returns table (
    name text,
    privileges text[]
)
language sql
stable
rows 40
set search_path from current
as $$
    values
        ('queue_put', '{put}'::text[]),
        ('queue_put_many', '{put}'),

        ('queue_get', '{get}'),
        ('queue_get_any', '{get}'),
        ('queue_lease', '{get}'),
        ('queue_lease_any', '{get}'),
        ('queue_complete', '{get}'),
        ('queue_complete_many', '{get}'),
        ('queue_error', '{get}'),
        ('queue_error_many', '{get}'),
        ('queue_release', '{get}'),
        ('queue_release_many', '{get}'),
        ('queue_progress', '{get}'),
        ('queue_progress_many', '{get}'),
        ('queue_bury', '{get}'),
        ('queue_channel', '{get}'),
        ('queue_listen', '{get}'),
        ('queue_unlisten', '{get}'),
        -- With the receipt of a lease; without one it takes manage.
        ('queue_update', '{get, manage}'),
        ('queue_wait', '{get, observe, manage}'),

        ('queue_list', '{observe, manage}'),
        ('queue_count', '{observe, manage}'),
        ('queue_stats', '{observe, manage}'),
        ('queue_dead_list', '{observe, manage}'),
        -- To take takes manage.
        ('queue_export', '{observe, manage}'),
        ('queue_settings', '{observe, manage}'),
        ('queue_metrics', '{observe, manage}'),
        -- Of all queues, and so is queue_maintain.
        ('queue_health', '{observe, manage}'),

        ('queue_create', '{manage}'),
        ('queue_drop', '{manage}'),
        ('queue_pause', '{manage}'),
        ('queue_resume', '{manage}'),
        ('queue_clear', '{manage}'),
        ('queue_cancel', '{manage}'),
        ('queue_redrive', '{manage}'),
        ('queue_dead_delete', '{manage}'),
        ('queue_import', '{manage}'),
        ('queue_maintain', '{manage}'),

        ('queue_version', '{put, get, observe, manage}'),
        ('queue_rights', '{put, get, observe, manage}')
$$;

comment on function _queue_functions is
    'Private: the functions that can be granted, each with the privileges of which one suffices. The others are for the owner alone.';

revoke all on function _queue_functions from public;

-- functions/_queue_give.sql
create or replace function _queue_give(
    queue text,
    role text,
    privilege text
)
returns boolean
language plpgsql
volatile
set search_path from current
as $$
#variable_conflict use_column
declare
    v_schema text := current_schema();
    v_role regrole;
    v_stranger record;
    v_new boolean;
begin
    -- First, and with nothing before it or in it that a stranger's function could be taken for.
    select s.problem, s.remedy into v_stranger from _queue_strangers('queue_right') s limit 1;
    if found then
        raise exception using
            errcode = 'object_not_in_prerequisite_state',
            message = 'no right on a queue would hold: ' || v_stranger.problem,
            hint = 'Do this: ' || v_stranger.remedy || '; or install the queue into a schema of its own.';
    end if;
    v_role := _queue_role(role);
    if privilege in ('put', 'get', 'observe', 'manage') is not true then
        perform _queue_refuse_privilege(privilege);
    end if;

    -- One at a time: two at once that grant the same function are an error.
    lock table queue_right in share row exclusive mode;
    if not has_schema_privilege(v_role, v_schema, 'usage') then
        if not has_schema_privilege(v_schema, 'usage with grant option') then
            raise exception using
                errcode = 'insufficient_privilege',
                message = format('role %I can''t let role %I use schema %I', current_user, _queue_give.role, v_schema),
                hint = format('Ask its owner: grant usage on schema %I to %I', v_schema, _queue_give.role);
        end if;
        execute format('grant usage on schema %I to %I', v_schema, _queue_give.role);
    end if;
    insert into queue_right (queue, role, privilege)
    values (_queue_give.queue, v_role, _queue_give.privilege)
    on conflict (queue, role, privilege) do nothing;
    v_new := found;
    perform _queue_align(v_role);
    return v_new;
end
$$;

comment on function _queue_give is
    'Private: queue_grant, and queue_grant_all for the empty name.';

revoke all on function _queue_give from public;

-- functions/_queue_has_sets.sql
create or replace function _queue_has_sets()
returns boolean
language sql
stable
-- As _queue_key. Before PostgreSQL 17 `id = any (ids)`, planned while the table was empty, is a filter
-- on a walk through the whole queue.
return cast(current_setting('server_version_num') as integer) >= 170000;

comment on function _queue_has_sets is
    'Private: whether the server finds rows by an array of ids along the index, whatever its statistics; otherwise one by one.';

revoke all on function _queue_has_sets from public;

-- functions/_queue_is_large.sql
create or replace function _queue_is_large(
    data jsonb
)
returns boolean
language sql
stable
-- As _queue_key. A number of 12 bytes can be a text of 147,456, so what has no more than this has 503 MB at most.
-- Of what was compressed, in the table that it comes from, the size says nothing.
return pg_column_size(data) > 40960 or pg_column_compression(data) is not null;

comment on function _queue_is_large is
    'Private: whether JSON could be too large as text; then _queue_check_json tells.';

revoke all on function _queue_is_large from public;

-- functions/_queue_key.sql
create or replace function _queue_key(
    queue text
)
returns bigint
language sql
stable
-- Parsed when it is created, so that no search_path matters, and without settings of its own: so it
-- becomes a part of the expression that calls it.
return hashtextextended(queue, cast(cast('queue_job' as regclass) as oid)::bigint);

comment on function _queue_key is
    'Private: the advisory lock that a session holds, shared, while it sleeps on a queue.';

revoke all on function _queue_key from public;

-- functions/_queue_may.sql
create or replace function _queue_may(
    queue text,
    variadic privileges text[]
)
returns boolean
language plpgsql
volatile
set search_path from current
as $$
begin
    -- Who maintains a table (ANALYZE, REINDEX, REFRESH MATERIALIZED VIEW) evaluates the functions of its owner, and so
    -- would lend him its rights on queues. PostgreSQL does not tell us, but refuses this there (42501). It costs 2 us.
    begin
        prepare pgq_py_not_in_maintenance as select;
    exception
        -- Left by a call that was cancelled just here: no rollback takes it away, and all later calls would fail.
        when duplicate_prepared_statement then null;
    end;
    deallocate pgq_py_not_in_maintenance;
    -- USAGE and not MEMBER: as everywhere in PostgreSQL, who does not inherit the rights of a group has them after
    -- SET ROLE.
    return exists (
            select
            from queue_right r
            where r.queue in ('', _queue_may.queue)
                and r.privilege = any (_queue_may.privileges)
                and pg_has_role(_queue_caller(), r.role, 'usage')
        )
        or coalesce(pg_has_role(_queue_caller(), current_user, 'usage'), false);
end
$$;

comment on function _queue_may is
    'Private: whether the caller has one of these privileges on a queue, or, for the empty name, on all queues. The owner of the functions, who has them all, is current_user: called by others this says nothing.';

revoke all on function _queue_may from public;

-- functions/_queue_names.sql
create or replace function _queue_names()
returns setof text
language plpgsql
volatile
set search_path from current
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_sort = off
set jit = off
as $$
declare
    v_name text collate "C" := '';
begin
    -- From each name to the next one, in each table: the number of rows doesn't matter.
    loop
        v_name := least(
            (select j.queue from queue_job j where j.queue > v_name order by j.queue limit 1),
            (select d.queue from queue_dead d where d.queue > v_name order by d.queue limit 1),
            (select s.queue from queue_setting s where s.queue > v_name order by s.queue limit 1),
            (select t.queue from queue_total t where t.queue > v_name order by t.queue limit 1),
            (select t.queue from queue_tally t where t.queue > v_name order by t.queue limit 1)
        );
        exit when v_name is null;
        return next v_name;
    end loop;
end
$$;

comment on function _queue_names is
    'Private: the names of all queues that have jobs, dead jobs, settings or totals, sorted by their bytes. The time grows with the number of queues, not of jobs.';

revoke all on function _queue_names from public;

-- functions/_queue_next.sql
create or replace function _queue_next(
    queues text[],
    first integer
)
returns integer
language plpgsql
volatile
set search_path from current
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_sort = off
set jit = off
as $$
declare
    v_now timestamptz := clock_timestamp();
    v_has_heads boolean := coalesce(current_setting('pgq_py.has_head', true), '') <> '';
    v_pages bigint := pg_stat_get_xact_blocks_fetched('queue_job_ready_idx'::regclass)
        + pg_stat_get_xact_blocks_fetched('queue_job_waiting_idx'::regclass);
    v_rows_pages bigint := pg_stat_get_xact_blocks_fetched('queue_job'::regclass);
    v_asked float8 := nullif(current_setting('pgq_py.asked_each', true), '');
    v_next integer;
begin
    -- Unnest gives the names in their order; asked for it, the database would look into all queues before it sorts.
    select n.place + _queue_next.first - 1
    into v_next
    from unnest(queues[_queue_next.first:]) with ordinality n (name, place)
    where octet_length(n.name) between 1 and 255 is not true
        -- Dead rows lie before its head: it goes around them itself.
        or v_has_heads
        and (
            select concat(current_setting('pgq_py.head_' || h.key, true), current_setting('pgq_py.due_' || h.key, true))
            from to_hex(hashtextextended(n.name, 'queue_job'::regclass::oid::bigint)) as h (key)
        ) <> ''
        or (
            select j.id
            from queue_job j
            where j.queue = n.name and j.ready_at is null
            order by j.rank, j.expected_at, j.id
            limit 1
        ) is not null
        or (
            select j.ready_at
            from queue_job j
            where j.queue = n.name and j.ready_at is not null and j.ready_at <= v_now
            order by j.ready_at
            limit 1
        ) is not null
    limit 1;
    -- Of a queue without jobs no row is looked at, unless it is dead.
    if pg_stat_get_xact_blocks_fetched('queue_job'::regclass) - v_rows_pages > 64
        or pg_stat_get_xact_blocks_fetched('queue_job_ready_idx'::regclass)
        + pg_stat_get_xact_blocks_fetched('queue_job_waiting_idx'::regclass) - v_pages
        > 64 + 16 * (coalesce(v_next, cardinality(queues)) - _queue_next.first)
    then
        if not v_has_heads then
            -- As in queue_get, but of no queue that could take it back.
            perform set_config('pgq_py.has_head', concat(extract(epoch from v_now) + 1, ' '), false);
        end if;
        -- Each that is asked now remembers its head, if it is worth it. If none is, once in a second is enough.
        if extract(epoch from v_now) - v_asked between 0 and 1 is not true then
            perform set_config('pgq_py.asked_each', extract(epoch from v_now)::text, false);
            return 0;
        end if;
    end if;
    return v_next;
end
$$;

comment on function _queue_next is
    'Private: the place of the first of QUEUES, from place FIRST on, that may have a job to take, or a bad name; null if none has; 0 if dead rows make it cheaper to ask each. Where they don''t this is much the cheaper.';

revoke all on function _queue_next from public;

-- functions/_queue_nobody_sleeps.sql
create or replace function _queue_nobody_sleeps(
    queue text
)
returns boolean
language sql
volatile
-- As _queue_key.
return
    -- First of all: whoever falls asleep later sees by this lock that we are not done, and looks again.
    -- Of 64 locks, or a transaction that puts into 10,000 queues would fill the table of locks.
    pg_try_advisory_xact_lock_shared(_queue_class(), (hashtextextended(queue, 0) & 63)::integer)
    -- No session is kept out by its own locks.
    and coalesce(current_setting('pgq_py.listening', true), '') = ''
    -- Nothing can interrupt between the two halves of each.
    and pg_try_advisory_lock(_queue_class(), 64) and pg_advisory_unlock(_queue_class(), 64)
    and pg_try_advisory_lock(_queue_key(queue)) and pg_advisory_unlock(_queue_key(queue));

comment on function _queue_nobody_sleeps is
    'Private: whether no session sleeps on the queue that would have to be notified when this transaction commits.';

revoke all on function _queue_nobody_sleeps from public;

-- functions/_queue_pick.sql
create or replace function _queue_pick(
    queue text,
    since timestamptz,
    now timestamptz,
    count integer
)
returns bigint[]
language plpgsql
volatile
set search_path from current
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_sort = off
set jit = off
as $$
declare
    v_ids bigint[] := '{}';
    v_window bigint := count::bigint + 100;
    v_again boolean := false;
    v_ready bigint;
    v_due bigint;
    v_job record;
    v_receipt uuid;
begin
    -- The transaction may stay open for long, so no row is locked but those that are
    -- taken: candidates are read without locks, then locked one by one in their order.
    -- When others hold so many of them that too few are left, look further.
    loop
        v_ready := 0;
        v_due := 0;
        for v_job in
            select c.id, c.is_ready
            from (
                (
                    select j.id, j.rank, j.expected_at, true as is_ready
                    from queue_job j
                    where j.queue = _queue_pick.queue and j.ready_at is null
                    order by j.rank, j.expected_at, j.id
                    limit v_window
                )
                union all
                (
                    select j.id, j.rank, j.expected_at, false
                    from queue_job j
                    where j.queue = _queue_pick.queue
                        and j.ready_at is not null
                        and j.ready_at >= _queue_pick.since
                        and j.ready_at <= _queue_pick.now
                        and (j.lease_until is null or j.lease_until <= _queue_pick.now)
                    order by j.ready_at
                    limit v_window
                )
            ) c
            order by c.rank, c.expected_at, c.id
        loop
            if v_job.is_ready then
                v_ready := v_ready + 1;
            else
                v_due := v_due + 1;
            end if;
            continue when v_again and v_job.id = any (v_ids);
            select j.receipt
            into v_receipt
            from queue_job j
            where j.queue = _queue_pick.queue and j.id = v_job.id
                and (j.ready_at is null or j.ready_at <= _queue_pick.now)
                and (j.lease_until is null or j.lease_until <= _queue_pick.now)
            for update skip locked;
            if not found then
                null;  -- others hold it
            elsif v_receipt is null or _queue_fail(_queue_pick.queue, v_job.id, 'the lease ran out', '0') then
                v_ids := v_ids || v_job.id;
                if cardinality(v_ids) = count then
                    return v_ids;
                end if;
            end if;
            -- Behind the last ready job that was read there may be others that come before
            -- the rest of the due.
            exit when v_ready = v_window;
        end loop;
        exit when v_ready < v_window and v_due < v_window;
        v_window := v_window * 4;
        v_again := true;
    end loop;
    return v_ids;
end
$$;

comment on function _queue_pick is
    'Private: lock the best COUNT jobs among the ready and those that have come due, at SINCE or later, and nothing else. Gives their ids.';

revoke all on function _queue_pick from public;

-- functions/_queue_promote.sql
create or replace function _queue_promote(
    queue text,
    since timestamptz,
    now timestamptz,
    count integer
)
returns bigint[]
language plpgsql
volatile
set search_path from current
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_sort = off
set jit = off
as $$
declare
    v_job record;
    v_id bigint;
    v_due bigint[];
    v_ids bigint[] := '{}';
    v_seen integer;
begin
    -- Again where a step met only leases that were extended and jobs that are now dead, but not
    -- so often that the caller would notice: the rest is left to the next one.
    for v_step in 1 .. 10 loop
        v_seen := 0;
        v_due := '{}';
        for v_job in
            select j.id, j.receipt, j.lease_until
            from queue_job j
            where j.queue = _queue_promote.queue
                and j.ready_at is not null
                and j.ready_at >= _queue_promote.since
                and j.ready_at <= _queue_promote.now
            order by j.ready_at
            limit _queue_promote.count
            for update skip locked
        loop
            v_seen := v_seen + 1;
            if v_job.lease_until > _queue_promote.now then
                -- Heartbeats move lease_until alone, which has no index.
                update queue_job j set ready_at = v_job.lease_until
                where j.queue = _queue_promote.queue and j.id = v_job.id;
            elsif v_job.receipt is null then
                v_due := v_due || v_job.id;
            elsif _queue_fail(_queue_promote.queue, v_job.id, 'the lease ran out', '0') then
                v_ids := v_ids || v_job.id;
            end if;
        end loop;
        if _queue_has_sets() then
            update queue_job j set ready_at = null
            where j.queue = _queue_promote.queue and j.id = any (v_due);
        else
            foreach v_id in array v_due loop
                update queue_job j set ready_at = null where j.queue = _queue_promote.queue and j.id = v_id;
            end loop;
        end if;
        v_ids := v_ids || v_due;
        exit when v_ids <> '{}' or v_seen < _queue_promote.count;
    end loop;
    return v_ids;
end
$$;

comment on function _queue_promote is
    'Private: move up to COUNT jobs that have come due, at SINCE or later, from the waiting to the ready, those due first, and give their ids. A lease that ran out is a failed attempt, and its job may be dead. All stay locked until the transaction ends: only for callers who commit at once.';

revoke all on function _queue_promote from public;

-- functions/_queue_put_keys.sql
create or replace function _queue_put_keys(
    queue text,
    new_ids bigint[],
    now timestamptz,
    schedule_at timestamptz,
    expected_at timestamptz,
    priority integer,
    dedupe_keys text[],
    headers jsonb,
    max_attempts integer,
    data jsonb[],
    data_text text[],
    data_bytes bytea[]
)
returns bigint[]
language plpgsql
volatile
set search_path from current
as $$
#variable_conflict use_column
begin
    -- Ids in the order of the array, rows in the order of the keys: two batches that share keys in
    -- different orders wait for each other instead of running into a deadlock.
    insert into queue_job (
        id, queue, enqueued_at, ready_at, schedule_at, expected_at, rank,
        dedupe_key, headers, max_attempts, data, data_text, data_bytes
    )
    overriding system value
    select
        u.new_id,
        _queue_put_keys.queue,
        _queue_put_keys.now,
        case when _queue_put_keys.schedule_at > _queue_put_keys.now then _queue_put_keys.schedule_at end,
        _queue_put_keys.schedule_at,
        _queue_put_keys.expected_at,
        - coalesce(_queue_put_keys.priority, 0),
        u.dedupe_key,
        _queue_put_keys.headers,
        _queue_put_keys.max_attempts,
        case when num_nulls(u.data_text, u.data_bytes) = 2 then coalesce(u.data, 'null') end,
        u.data_text,
        u.data_bytes
    from unnest(
        _queue_put_keys.new_ids,
        _queue_put_keys.dedupe_keys,
        _queue_put_keys.data,
        _queue_put_keys.data_text,
        _queue_put_keys.data_bytes
    ) with ordinality as u (new_id, dedupe_key, data, data_text, data_bytes, n)
    order by u.dedupe_key collate "C", u.n
    on conflict (queue, dedupe_key) where dedupe_key is not null do nothing;
    return array(
        select
            case
                when u.dedupe_key is null then u.new_id
                else _queue_find(_queue_put_keys.queue, u.dedupe_key)
            end
        from unnest(_queue_put_keys.new_ids, _queue_put_keys.dedupe_keys)
            with ordinality as u (new_id, dedupe_key, n)
        order by u.n
    );
end
$$;

comment on function _queue_put_keys is
    'Private: put jobs with dedupe keys, and give the ids of the jobs that have them: null where a key was there and is gone.';

revoke all on function _queue_put_keys from public;

-- functions/_queue_refuse_count.sql
create or replace function _queue_refuse_count(
    count integer
)
returns void
language plpgsql
stable
set search_path from current
as $$
begin
    raise exception using
        errcode = 'invalid_parameter_value',
        message = format('count is %s', coalesce(count::text, 'null')),
        hint = case
            when count > 0 then 'Put or take 100,000 jobs at most in one call; a transaction may have many calls.'
            else 'Ask for at least one job.'
        end;
end
$$;

comment on function _queue_refuse_count is
    'Private: the error for a count of jobs that is null, below 1 or above 100,000 (22023).';

revoke all on function _queue_refuse_count from public;

-- functions/_queue_refuse_data.sql
create or replace function _queue_refuse_data(
    bytes integer
)
returns void
language plpgsql
stable
set search_path from current
as $$
begin
    raise exception using
        errcode = 'QU002',
        message = format('the data have %s bytes, and a job takes 268435455 at most', bytes),
        hint = 'Put where to find it.';
end
$$;

comment on function _queue_refuse_data is
    'Private: the error for text or bytes that are larger than the largest JSON (QU002). More can be stored, but not sent to every client: as text bytes need twice the room, and the end is at 1 GB.';

revoke all on function _queue_refuse_data from public;

-- functions/_queue_refuse_lease.sql
create or replace function _queue_refuse_lease(
    lease interval
)
returns void
language plpgsql
stable
set search_path from current
as $$
begin
    if not isfinite(lease) then
        raise exception using
            errcode = 'datetime_field_overflow',
            message = format('the lease is %s', lease),
            hint = 'A lease has an end, or the job of a consumer that is gone would never come back.';
    end if;
    if lease > interval '10 years' then
        raise exception using
            errcode = 'datetime_field_overflow',
            message = format('the lease is %s', lease),
            hint = 'A lease lasts for 10 years at most; queue_progress extends it.';
    end if;
    raise exception using
        errcode = 'invalid_parameter_value',
        message = format('the lease is %s', coalesce(lease::text, 'null')),
        hint = 'A lease lasts longer than nothing: give an interval above zero.';
end
$$;

comment on function _queue_refuse_lease is
    'Private: the error for a lease that is not above zero (22023), above 10 years or without end (22008).';

revoke all on function _queue_refuse_lease from public;

-- functions/_queue_refuse_length.sql
create or replace function _queue_refuse_length(
    name text,
    bytes integer,
    most integer
)
returns void
language plpgsql
stable
set search_path from current
as $$
begin
    raise exception using
        errcode = 'invalid_parameter_value',
        message = format('%s has %s bytes, over the limit of %s', name, bytes, most),
        hint = 'Keep it short; what is long belongs into the data.';
end
$$;

comment on function _queue_refuse_length is
    'Private: the error for an argument NAME that is too long (22023). The callers test, so that a good one costs no call.';

revoke all on function _queue_refuse_length from public;

-- functions/_queue_refuse_name.sql
create or replace function _queue_refuse_name(
    queue text
)
returns void
language plpgsql
stable
set search_path from current
as $$
begin
    raise exception using
        errcode = 'invalid_parameter_value',
        message = case
            when queue is null then 'the name of a queue is missing'
            when queue = '' then 'the name of a queue is empty'
            else format('the name of a queue has %s bytes, over the limit of 255', octet_length(queue))
        end,
        hint = 'A queue is named by 1 to 255 bytes of text.';
end
$$;

comment on function _queue_refuse_name is
    'Private: the error for a name of a queue that is missing, empty or over 255 bytes (22023). The callers test, so that a good name costs no call.';

revoke all on function _queue_refuse_name from public;

-- functions/_queue_refuse_privilege.sql
create or replace function _queue_refuse_privilege(
    privilege text
)
returns void
language plpgsql
stable
set search_path from current
as $$
begin
    raise exception using
        errcode = 'invalid_parameter_value',
        message = case
            when privilege is null then 'the privilege is missing'
            else format('there is no privilege %L', privilege)
        end,
        hint = 'The privileges are put, get, observe and manage.';
end
$$;

comment on function _queue_refuse_privilege is
    'Private: the error for a privilege that there is not (22023).';

revoke all on function _queue_refuse_privilege from public;

-- functions/_queue_refuse_sizes.sql
create or replace function _queue_refuse_sizes(
    name text,
    given integer,
    wanted integer
)
returns void
language plpgsql
stable
set search_path from current
as $$
begin
    raise exception using
        errcode = 'array_subscript_error',
        message = format(
            '%s %s are given for %s jobs', coalesce(given::text, 'no'), name, coalesce(wanted::text, 'no')
        ),
        hint = 'Give one for each job.';
end
$$;

comment on function _queue_refuse_sizes is
    'Private: the error for arrays of different lengths (2202E).';

revoke all on function _queue_refuse_sizes from public;

-- functions/_queue_role.sql
create or replace function _queue_role(
    role text
)
returns regrole
language plpgsql
stable
set search_path from current
as $$
declare
    -- Not as regrole reads it, which would want quotes around the name.
    v_role regrole := (select r.oid from pg_roles r where r.rolname = role);
begin
    if v_role is null then
        raise exception using
            errcode = 'undefined_object',
            message = case
                when role is null then 'the name of a role is missing'
                else format('there is no role %I', role)
            end,
            hint = case
                when role = 'public' then 'Make a role of which all are members, and give the right to that.'
                else 'Give the name of a role as pg_roles has it, without quotes around it.'
            end;
    end if;
    return v_role;
end
$$;

comment on function _queue_role is
    'Private: the role of this name; 42704 if there is none.';

revoke all on function _queue_role from public;

-- functions/_queue_strangers.sql
create or replace function _queue_strangers(
    relation regclass
)
returns table (
    problem text,
    remedy text
)
language plpgsql
stable
-- Not our schema: this must not itself meet what it looks for.
set search_path to pg_catalog, pg_temp
as $$
declare
    v_schema oid;
    v_schema_owner oid;
    v_owner oid;
    -- From PostgreSQL 16 on a member may be one that neither has the rights nor can take the role on.
    v_set text := case when current_setting('server_version_num')::integer < 160000 then 'member' else 'set' end;
begin
    select n.oid, n.nspowner, c.relowner
    into v_schema, v_schema_owner, v_owner
    from pg_class c
    join pg_namespace n on n.oid = c.relnamespace
    where c.oid = _queue_strangers.relation;

    -- That pg_catalog comes first on our search_path is not enough: a function or operator whose arguments fit
    -- better is taken wherever it is on the path, and would run as the owner. Trusted are the owner, superusers,
    -- and the owner of the schema, who can put other functions in the place of ours.
    return query
    with trusted (role) as (
        select r.oid
        from pg_roles r
        cross join unnest(array[v_owner, v_schema_owner]) as o (owner)
        where pg_has_role(r.oid, o.owner, 'usage')
            or pg_has_role(r.oid, o.owner, v_set)
            or pg_has_role(r.oid, o.owner, 'member with admin option')
    ), stranger (problem, remedy) as (
        select
            format('role %s can make functions and operators in schema %I', g.name, n.nspname),
            format('revoke create on schema %I from %s', n.nspname, g.name)
        from pg_namespace n
        cross join aclexplode(n.nspacl) as a
        cross join lateral (
            select case when a.grantee = 0 then 'public' else quote_ident(pg_get_userbyid(a.grantee)) end
        ) as g (name)
        where n.oid = v_schema
            and a.privilege_type = 'CREATE'
            and (a.grantee = 0 or a.grantee not in (select t.role from trusted t))
        union all
        select
            format('function %s belongs to role %I', p.oid::regprocedure, pg_get_userbyid(p.proowner)),
            format(
                case
                    -- Whether it is ours, and was given away, can't be told.
                    when p.proname ~ '^_?queue_'
                        then 'alter function %s owner to %I if it is the queue''s, drop it if not'
                    else 'drop function %s'
                end,
                p.oid::regprocedure,
                pg_get_userbyid(v_owner)
            )
        from pg_proc p
        where p.pronamespace = v_schema
            and p.proowner not in (select t.role from trusted t)
            and (
                starts_with(p.proname, 'queue_')
                or starts_with(p.proname, '_queue_')
                or p.proname in (select c.proname from pg_proc c where c.pronamespace = 'pg_catalog'::regnamespace)
            )
        union all
        select
            format('operator %s belongs to role %I', o.oid::regoperator, pg_get_userbyid(o.oprowner)),
            format('drop operator %s', o.oid::regoperator)
        from pg_operator o
        where o.oprnamespace = v_schema and o.oprowner not in (select t.role from trusted t)
        union all
        -- Rights on our tables: with one on queue_right a role gives itself all others, a trigger runs as whoever puts.
        -- To read the jobs is not to be the owner, and may have been meant.
        select distinct
            format('role %s has more than SELECT on %s', g.name, c.oid::regclass),
            format(
                'revoke all on %s %s from %s',
                case when c.relkind = 'S' then 'sequence' else 'table' end,
                c.oid::regclass,
                g.name
            )
        from pg_class c
        cross join aclexplode(c.relacl) as a
        cross join lateral (
            select case when a.grantee = 0 then 'public' else quote_ident(pg_get_userbyid(a.grantee)) end
        ) as g (name)
        where c.relnamespace = v_schema
            and c.relowner = v_owner
            and c.relkind in ('r', 'p', 'S')
            and starts_with(c.relname, 'queue_')
            and a.privilege_type not in ('SELECT', 'MAINTAIN')
            and (a.grantee = 0 or a.grantee not in (select t.role from trusted t))
    )
    select s.problem, s.remedy from stranger s order by s.problem;
end
$$;

comment on function _queue_strangers is
    'Private: who may make, or has made, functions or operators in the queue''s schema that the queue''s functions could take for PostgreSQL''s own, and run with the rights of their owner; and who may write to its tables.';

revoke all on function _queue_strangers from public;

-- functions/_queue_take.sql
create or replace function _queue_take(
    queue text,
    role text,
    privilege text
)
returns boolean
language plpgsql
volatile
set search_path from current
as $$
#variable_conflict use_column
declare
    v_role regrole := _queue_role(role);
    v_taken boolean;
    v_left record;
begin
    if privilege not in ('put', 'get', 'observe', 'manage') then
        perform _queue_refuse_privilege(privilege);
    end if;

    -- As in _queue_give.
    lock table queue_right in share row exclusive mode;
    delete from queue_right r
    where (r.queue = _queue_take.queue or _queue_take.queue is null)
        and r.role = v_role
        and (r.privilege = _queue_take.privilege or _queue_take.privilege is null);
    v_taken := found;
    perform _queue_align(v_role);

    if pg_has_role(v_role, current_user, 'usage') then
        raise warning using
            message = format('role %I still has all rights on all queues', _queue_take.role),
            hint = format('It is a superuser, or has the rights of role %I, the owner.', current_user);
        return v_taken;
    end if;
    for v_left in
        select
            r.privilege,
            case when r.queue = '' then 'all queues' else format('queue %I', r.queue) end as queues,
            pg_get_userbyid(r.role) as holder,
            case
                when r.queue = '' then format('queue_revoke_all(%L, %L)', pg_get_userbyid(r.role), r.privilege)
                else format('queue_revoke(%L, %L, %L)', r.queue, pg_get_userbyid(r.role), r.privilege)
            end as remedy
        from queue_right r
        where (r.queue in ('', _queue_take.queue) or _queue_take.queue is null)
            and (
                r.privilege = _queue_take.privilege
                or _queue_take.privilege is null
                or _queue_take.privilege = 'observe' and r.privilege = 'manage'
            )
            and pg_has_role(v_role, r.role, 'usage')
        order by r.queue, r.role, r.privilege
    loop
        raise warning using
            message = format(
                'role %I still may: role %I has the right to %s on %s',
                _queue_take.role, v_left.holder, v_left.privilege, v_left.queues
            ),
            hint = format('To end that: select %I.%s', current_schema(), v_left.remedy);
    end loop;
    return v_taken;
end
$$;

comment on function _queue_take is
    'Private: queue_revoke, and queue_revoke_all for null, which is everywhere.';

revoke all on function _queue_take from public;

-- functions/_queue_time.sql
create or replace function _queue_time(
    name text,
    at timestamptz,
    after interval,
    reference timestamptz
)
returns timestamptz
language plpgsql
stable
set search_path from current
as $$
begin
    if at is not null and after is not null then
        raise exception using
            errcode = 'invalid_parameter_value',
            message = format('both %s_at and %s_in are given', name, name),
            hint = 'Give the time, or how long from now, but not both.';
    end if;
    -- Not the sum of them, which would leave the calendar with an error that names nothing. Infinity is beyond, too.
    if not after between interval '-5000 years' and interval '10000 years' then
        raise exception using
            errcode = 'datetime_field_overflow',
            message = format('%s_in is %s', name, after),
            hint = 'Give a time no later than the year 9999.';
    end if;
    at := coalesce(at, reference + after);
    if not isfinite(at) then
        raise exception using
            errcode = 'datetime_field_overflow',
            message = format('%s_at is infinite', name),
            hint = 'Give a finite time, or none at all.';
    end if;
    -- The last year that clients of all languages can read. Milliseconds taken for seconds end far beyond it.
    if at >= timestamptz '10000-01-01 00:00+00' then
        raise exception using
            errcode = 'datetime_field_overflow',
            message = format('%s_at is %s', name, at),
            hint = 'Give a time no later than the year 9999.';
    end if;
    return at;
end
$$;

comment on function _queue_time is
    'Private: the moment that NAME_at or NAME_in mean. Both given: 22023. Infinite, or after the year 9999: 22008.';

revoke all on function _queue_time from public;

-- functions/_queue_wake.sql
create or replace function _queue_wake(
    queue text
)
returns void
language plpgsql
volatile
set search_path from current
as $$
begin
    -- Called after writing, as queue_wait relies on.
    if not _queue_nobody_sleeps(queue) then
        perform pg_notify(_queue_channel(queue), '');
    end if;
end
$$;

comment on function _queue_wake is
    'Private: wake whoever sleeps on a queue, when this transaction commits.';

revoke all on function _queue_wake from public;

-- functions/queue_bury.sql
create or replace function queue_bury(
    queue text,
    id bigint,
    reason text,
    data jsonb default null,
    data_text text default null,
    data_bytes bytea default null,
    priority integer default 0,
    enqueued_at timestamptz default null,
    schedule_at timestamptz default null,
    expected_at timestamptz default null,
    attempts integer default 0,
    max_attempts integer default null,
    consumer text default null,
    dedupe_key text default null,
    headers jsonb default null
)
returns void
language plpgsql
volatile
security definer
set search_path from current
as $$
#variable_conflict use_column
declare
    v_bytes integer;
begin
    if octet_length(queue_bury.queue) between 1 and 255 is not true then
        perform _queue_refuse_name(queue_bury.queue);
    end if;
    if session_user <> current_user
        or current_setting('session_authorization') = ''
        or current_setting('role') <> 'none'
    then
        perform _queue_allow(queue_bury.queue, 'get');
    end if;
    -- What is dead may be put back into the queue, where the same holds. An id that is yet to come would then
    -- be taken when it comes, and the put that draws it fail.
    if queue_bury.id > (select s.last_value from queue_job_id_seq s) then
        raise exception using
            errcode = 'invalid_parameter_value',
            message = format('no job has had the id %s', queue_bury.id),
            hint = 'Give the id of the job that was taken.';
    end if;
    if num_nonnulls(queue_bury.data, queue_bury.data_text, queue_bury.data_bytes) > 1 then
        raise exception using
            errcode = 'invalid_parameter_value',
            message = 'more than one of data, data_text and data_bytes is given',
            hint = 'A job holds one of the three.';
    end if;
    if queue_bury.max_attempts < 1 then
        raise exception using
            errcode = 'invalid_parameter_value',
            message = format('max_attempts is %s', queue_bury.max_attempts),
            hint = 'A job is tried at least once; null is as the queue says.';
    end if;
    if queue_bury.priority = -2147483648 then
        raise exception using
            errcode = 'numeric_value_out_of_range',
            message = 'the priority is -2147483648',
            hint = 'The lowest priority is -2147483647: each must have its opposite, by which jobs are sorted.';
    end if;
    perform _queue_time('enqueued', queue_bury.enqueued_at, null, null);
    perform _queue_time('schedule', queue_bury.schedule_at, null, null);
    perform _queue_time('expected', queue_bury.expected_at, null, null);
    v_bytes := coalesce(octet_length(queue_bury.data_bytes), octet_length(queue_bury.data_text));
    if v_bytes > 268435455 then
        perform _queue_refuse_data(v_bytes);
    end if;
    if _queue_is_large(queue_bury.data) then
        perform _queue_check_json(queue_bury.data);
    end if;
    if octet_length(queue_bury.dedupe_key) > 1024 then
        perform _queue_refuse_length('dedupe_key', octet_length(queue_bury.dedupe_key), 1024);
    end if;
    if octet_length(queue_bury.consumer) > 255 then
        perform _queue_refuse_length('consumer', octet_length(queue_bury.consumer), 255);
    end if;
    if octet_length(queue_bury.headers::text) > 65536 then
        perform _queue_refuse_length('headers', octet_length(queue_bury.headers::text), 65536);
    end if;
    insert into queue_dead (
        queue, id, died_at, reason, data, data_text, data_bytes, priority, enqueued_at,
        schedule_at, expected_at, attempts, max_attempts, consumer, dedupe_key, headers
    )
    values (
        queue_bury.queue, queue_bury.id, clock_timestamp(), left(queue_bury.reason, 2000),
        case
            when num_nonnulls(queue_bury.data_text, queue_bury.data_bytes) = 0 then coalesce(queue_bury.data, 'null')
        end,
        queue_bury.data_text, queue_bury.data_bytes, queue_bury.priority, queue_bury.enqueued_at,
        queue_bury.schedule_at, queue_bury.expected_at,
        queue_bury.attempts, queue_bury.max_attempts, queue_bury.consumer,
        queue_bury.dedupe_key, queue_bury.headers
    )
    on conflict (queue, id) do nothing;
    if found then
        insert into queue_tally (queue, dead, died) values (queue_bury.queue, 1, 1);
    end if;
end
$$;

comment on function queue_bury is $$
Put a job that was taken with `queue_get` among the dead, because it can't be read.

For consumers that find that the data of a job is not what they can decode: in the
transaction that took it, or after that, as soon as they find out. The job stays for
inspection in the table `queue_dead`.

**queue**, **id**: the job.
**reason**: why, in words; the first 2,000 characters are kept.

The other arguments are the job's fields, as `queue_get` returned them.

Errors: 22023 for a bad name, an id that no job has had yet, more than one kind of data, or fields
that no job can have; 22003, 22008 and QU002 for a priority, a time or data, as in `queue_put`;
23502 for a missing id or reason.

    select queue_bury('apples', id, 'not an apple', data => data) from queue_get('apples');
$$;

revoke all on function queue_bury from public;

-- functions/queue_cancel.sql
create or replace function queue_cancel(
    queue text,
    id bigint
)
returns boolean
language plpgsql
volatile
security definer
set search_path from current
set enable_seqscan = off
as $$
#variable_conflict use_column
begin
    if octet_length(queue_cancel.queue) between 1 and 255 is not true then
        perform _queue_refuse_name(queue_cancel.queue);
    end if;
    if session_user <> current_user
        or current_setting('session_authorization') = ''
        or current_setting('role') <> 'none'
    then
        perform _queue_allow(queue_cancel.queue, 'manage');
    end if;
    perform
    from queue_job j
    where j.queue = queue_cancel.queue and j.id = queue_cancel.id
    for update skip locked;
    if not found then
        return false;
    end if;
    delete from queue_job j where j.queue = queue_cancel.queue and j.id = queue_cancel.id;
    insert into queue_tally (queue, moved) values (queue_cancel.queue, -1);
    return true;
end
$$;

comment on function queue_cancel is $$
Remove a job from a queue. If it is leased, its consumer's receipt is no longer good.

**queue**, **id**: the job.

Returns true if the job was removed; false if there is no such job, or a transaction is
taking it at this moment (the call does not wait for that transaction's end).

Errors: 22023 for a bad name.

    select queue_cancel('apples', 42);
$$;

revoke all on function queue_cancel from public;

-- functions/queue_channel.sql
create or replace function queue_channel(
    queue text
)
returns text
language plpgsql
volatile
security definer
set search_path from current
as $$
begin
    if octet_length(queue) between 1 and 255 is not true then
        perform _queue_refuse_name(queue);
    end if;
    if session_user <> current_user
        or current_setting('session_authorization') = ''
        or current_setting('role') <> 'none'
    then
        perform _queue_allow(queue, 'get');
    end if;
    return _queue_channel(queue);
end
$$;

comment on function queue_channel is $$
The channel on which a session that called `queue_listen` is notified of jobs.

The payload of a notification is empty. The name is made from the schema and the queue by a hash;
two queues that share one cause needless wake-ups, nothing else. It may differ between servers.

**queue**: name of the queue.

Returns the name, 63 bytes at most.

Errors: 22023 for a bad name.

    select queue_channel('apples');
$$;

revoke all on function queue_channel from public;

-- functions/queue_clear.sql
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

-- functions/queue_complete.sql
create or replace function queue_complete(
    queue text,
    id bigint,
    receipt uuid
)
returns boolean
language plpgsql
volatile
security definer
set search_path from current
set enable_seqscan = off
as $$
#variable_conflict use_column
declare
    v_now timestamptz := clock_timestamp();
begin
    if (
        octet_length(queue_complete.queue) between 1 and 255
        and (
            session_user = current_user
            and current_setting('session_authorization') <> ''
            and current_setting('role') = 'none'
            or _queue_may(queue_complete.queue, 'get')
        )
    ) is not true then
        if octet_length(queue_complete.queue) between 1 and 255 is not true then
            perform _queue_refuse_name(queue_complete.queue);
        end if;
        perform _queue_allow(queue_complete.queue, 'get');
    end if;
    delete from queue_job j
    where j.queue = queue_complete.queue
        and j.id = queue_complete.id
        and j.receipt = queue_complete.receipt
        and j.lease_until > v_now;
    if not found then
        return false;
    end if;
    insert into queue_tally (queue, taken, completed) values (queue_complete.queue, 1, 1);
    if random() < 0.005 then
        perform _queue_fold(queue_complete.queue);
    end if;
    return true;
end
$$;

comment on function queue_complete is $$
A leased job is done: remove it.

In the transaction that writes the job's result, the two stand or fall together: of two
consumers that both worked on the job, one has an effect.

**queue**, **id**, **receipt**: as `queue_lease` gave them.

Returns false if the lease is no longer good: it ran out, or the job was completed, returned,
failed or cancelled. Then somebody else may have the job, and nothing was changed.

Errors: 22023 for a bad name.

    select queue_complete('apples', 42, '3d3a1ad4-2a1f-4ba1-9e13-5a3fcb8b2fd0');
$$;

revoke all on function queue_complete from public;

-- functions/queue_complete_many.sql
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

-- functions/queue_count.sql
create or replace function queue_count(
    queue text,
    scheduled boolean default false
)
returns bigint
language plpgsql
volatile
security definer
set search_path from current
as $$
declare
    v_now timestamptz := clock_timestamp();
begin
    if octet_length(queue_count.queue) between 1 and 255 is not true then
        perform _queue_refuse_name(queue_count.queue);
    end if;
    if session_user <> current_user
        or current_setting('session_authorization') = ''
        or current_setting('role') <> 'none'
    then
        perform _queue_allow(queue_count.queue, 'observe', 'manage');
    end if;
    if queue_count.scheduled then
        return (select count(*) from queue_job j where j.queue = queue_count.queue);
    end if;
    -- Two counts, so that each can walk its own index.
    return (
        select count(*) from queue_job j where j.queue = queue_count.queue and j.ready_at is null
    ) + (
        select count(*)
        from queue_job j
        where j.queue = queue_count.queue
            and j.ready_at is not null
            and j.ready_at <= v_now
            and (j.lease_until is null or j.lease_until <= v_now)
    );
end
$$;

comment on function queue_count is $$
Count the jobs of a queue, exactly; the time grows with the number.

**queue**: name of the queue.
**scheduled**: false counts the jobs that could be taken now, true also those that wait:
scheduled, backing off after an error, or leased.

Returns the number. Jobs that a transaction is taking at this moment still count.

Errors: 22023 for a bad name.

    select queue_count('apples');
$$;

revoke all on function queue_count from public;

-- functions/queue_create.sql
create or replace function queue_create(
    queue text,
    max_attempts integer default null,
    lease_for interval default null,
    retry_in interval default null,
    max_depth bigint default null,
    max_bytes integer default null,
    keep_dead_for interval default null,
    reset text[] default '{}'
)
returns boolean
language plpgsql
volatile
security definer
set search_path from current
set enable_seqscan = off
as $$
#variable_conflict use_column
declare
    v_new boolean;
    v_wrong text;
begin
    if octet_length(queue_create.queue) between 1 and 255 is not true then
        perform _queue_refuse_name(queue_create.queue);
    end if;
    if session_user <> current_user
        or current_setting('session_authorization') = ''
        or current_setting('role') <> 'none'
    then
        perform _queue_allow(queue_create.queue, 'manage');
    end if;
    v_wrong := case
        when max_attempts < 1 then 'max_attempts'
        -- The backoff grows to 32,768 times retry_in, which must not leave the calendar.
        when not lease_for between interval '1 microsecond' and interval '10 years' then 'lease_for'
        when not retry_in between interval '0' and interval '1 year' then 'retry_in'
        when max_depth < 1 then 'max_depth'
        when max_bytes < 1 then 'max_bytes'
        when keep_dead_for not between interval '0' and interval '1000 years' then 'keep_dead_for'
    end;
    if v_wrong is not null then
        raise exception using
            errcode = 'invalid_parameter_value',
            message = format('%s is out of range', v_wrong),
            hint = 'At least one for a number; a length of time above zero (retry_in and keep_dead_for: or zero), '
                'and no more than 10 years (retry_in: 1, keep_dead_for: 1000).';
    end if;
    reset := coalesce(reset, '{}');
    if not reset <@ '{max_attempts, lease_for, retry_in, max_depth, max_bytes, keep_dead_for}' then
        raise exception using
            errcode = 'invalid_parameter_value',
            message = 'reset names a setting that there is not',
            hint = 'The settings are max_attempts, lease_for, retry_in, max_depth, max_bytes and keep_dead_for.';
    end if;

    insert into queue_setting (queue) values (queue_create.queue) on conflict (queue) do nothing;
    v_new := found;
    if num_nonnulls(max_attempts, lease_for, retry_in, max_depth, max_bytes, keep_dead_for) > 0
        or reset <> '{}'
    then
        update queue_setting s
        set
            max_attempts = coalesce(
                queue_create.max_attempts, case when not 'max_attempts' = any (reset) then s.max_attempts end
            ),
            lease_for = coalesce(
                queue_create.lease_for, case when not 'lease_for' = any (reset) then s.lease_for end
            ),
            retry_in = coalesce(
                queue_create.retry_in, case when not 'retry_in' = any (reset) then s.retry_in end
            ),
            max_depth = coalesce(
                queue_create.max_depth, case when not 'max_depth' = any (reset) then s.max_depth end
            ),
            max_bytes = coalesce(
                queue_create.max_bytes, case when not 'max_bytes' = any (reset) then s.max_bytes end
            ),
            keep_dead_for = coalesce(
                queue_create.keep_dead_for, case when not 'keep_dead_for' = any (reset) then s.keep_dead_for end
            )
        where s.queue = queue_create.queue;
    end if;
    return v_new;
end
$$;

comment on function queue_create is $$
Create a queue by name, or change its settings. No queue needs it: a put makes its queue, and
one without settings works with the defaults.

**queue**: name of the queue, 1 to 255 bytes, any character but NUL.
**max_attempts**: how often a job may be tried before it goes to the dead, unless the job
says otherwise; 5 by default.
**lease_for**: how long a lease lasts, unless the call says otherwise; 5 minutes by default.
**retry_in**: how long a job pauses after its first failed attempt, unless the call says
otherwise; 10 seconds by default. Doubled with each attempt up to six hours, times a random
number between a half and one and a half.
**max_depth**: how many jobs the queue may hold, of all kinds but the dead; a put beyond it is
refused. No limit by default. Puts that run at the same time may exceed it by what they put;
a put into a queue with a limit counts its jobs up to the limit.
**max_bytes**: how large the data of a job may be, JSON as text; no limit by default.
**keep_dead_for**: how long `queue_maintain` keeps dead jobs; for ever by default.
**reset**: names of settings that go back to their defaults.

A setting that is null stays as it is. A change holds for leases, errors and puts from then on.

Returns true if the queue was not known by name before.

Errors: 22023 for a bad name or a setting out of range.

    select queue_create('apples', max_attempts => 3, retry_in => '1 minute', reset => '{max_depth}');
$$;

revoke all on function queue_create from public;

-- functions/queue_dead_delete.sql
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

-- functions/queue_dead_list.sql
create or replace function queue_dead_list(
    queue text,
    ids bigint[] default null,
    reason_like text default null,
    died_after timestamptz default null,
    died_before timestamptz default null,
    count integer default null
)
returns table (
    id bigint,
    died_at timestamptz,
    reason text,
    data jsonb,
    data_text text,
    data_bytes bytea,
    priority integer,
    enqueued_at timestamptz,
    schedule_at timestamptz,
    expected_at timestamptz,
    attempts integer,
    max_attempts integer,
    last_error text,
    progress_count bigint,
    consumer text,
    dedupe_key text,
    headers jsonb,
    history jsonb
)
language plpgsql
volatile
security definer
set search_path from current
set enable_seqscan = off
as $$
#variable_conflict use_column
begin
    if octet_length(queue_dead_list.queue) between 1 and 255 is not true then
        perform _queue_refuse_name(queue_dead_list.queue);
    end if;
    if session_user <> current_user
        or current_setting('session_authorization') = ''
        or current_setting('role') <> 'none'
    then
        perform _queue_allow(queue_dead_list.queue, 'observe', 'manage');
    end if;
    if queue_dead_list.count < 1 then
        perform _queue_refuse_count(queue_dead_list.count);
    end if;
    return query
    select
        d.id, d.died_at, d.reason, d.data, d.data_text, d.data_bytes, d.priority, d.enqueued_at,
        d.schedule_at, d.expected_at, d.attempts, d.max_attempts, d.last_error, d.progress_count,
        d.consumer, d.dedupe_key, d.headers, d.history
    from queue_dead d
    where d.queue = queue_dead_list.queue
        and (queue_dead_list.ids is null or d.id = any (queue_dead_list.ids))
        and (queue_dead_list.reason_like is null or d.reason like queue_dead_list.reason_like)
        and (queue_dead_list.died_after is null or d.died_at >= queue_dead_list.died_after)
        and (queue_dead_list.died_before is null or d.died_at < queue_dead_list.died_before)
    order by d.died_at, d.id
    limit queue_dead_list.count;
end
$$;

comment on function queue_dead_list is $$
Look at the dead jobs of a queue: those that are out of attempts, can't be read, or were
buried. They come in the order in which they died.

**queue**: name of the queue.
**ids**: these jobs only.
**reason_like**: only those whose reason matches this pattern of LIKE, `'%timeout%'` for example.
**died_after**, **died_before**: only those that died at or after, or before, these times.
**count**: this many at most, those that died first.

Returns one row for each job: what `queue_get` returns; when it died, and the **reason**; and
**history**, an array with an object for each failed attempt, the latest last: its number
(`attempt`), when it ended (`at`), the `consumer`, and the `error`. Of more than 50 the latest
are kept.

Errors: 22023 for a bad name or a count below 1.

    select id, died_at, reason, data, history from queue_dead_list('apples', count => 10);
$$;

revoke all on function queue_dead_list from public;

-- functions/queue_drop.sql
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

-- functions/queue_error.sql
create or replace function queue_error(
    queue text,
    id bigint,
    receipt uuid,
    message text default null,
    retry_in interval default null,
    bury boolean default false
)
returns boolean
language plpgsql
volatile
security definer
set search_path from current
set enable_seqscan = off
as $$
#variable_conflict use_column
declare
    v_now timestamptz := clock_timestamp();
begin
    if octet_length(queue_error.queue) between 1 and 255 is not true then
        perform _queue_refuse_name(queue_error.queue);
    end if;
    if session_user <> current_user
        or current_setting('session_authorization') = ''
        or current_setting('role') <> 'none'
    then
        perform _queue_allow(queue_error.queue, 'get');
    end if;
    if queue_error.retry_in is not null then
        perform _queue_time('retry', null, queue_error.retry_in, v_now);
    end if;
    if queue_error.receipt is null then
        if not _queue_count_attempt(queue_error.queue, queue_error.id, v_now) then
            return false;
        end if;
    else
        perform
        from queue_job j
        where j.queue = queue_error.queue
            and j.id = queue_error.id
            and j.receipt = queue_error.receipt
            and j.lease_until > v_now
        for update;
        if not found then
            return false;
        end if;
    end if;
    if _queue_fail(queue_error.queue, queue_error.id, queue_error.message, queue_error.retry_in, queue_error.bury) then
        -- It comes due earlier than its lease ended, which is what sleepers reckon with.
        perform _queue_wake(queue_error.queue);
    end if;
    return true;
end
$$;

comment on function queue_error is $$
An attempt at a job has failed: keep the message, and put the job back after a pause, or
among the dead if its attempts are used up.

**queue**, **id**, **receipt**: as `queue_lease` gave them. The receipt is null for a job
that was taken with `queue_get`, after the rollback that returned it: that attempt is counted
now. If somebody else is working on it by then, this waits for a second at most.
**message**: why; the last 2,000 characters are kept, in `last_error` and with each attempt.
**retry_in**: how long until it may be taken again, zero for at once. By default as the queue
says (`queue_create`), or 10 seconds, doubled with each attempt up to six hours, times a
random number between a half and one and a half.
**bury**: true puts it among the dead whatever its attempts: for a job that can never succeed.
The reason of a dead job is the last line of the message.

Returns false if the lease is no longer good, or, without a receipt, if the job is not there
or is held by somebody else. Then nothing was changed.

Errors: 22023 for a bad name; 22008 for a pause that ends after the year 9999.

    select queue_error('apples', 42, '3d3a1ad4-2a1f-4ba1-9e13-5a3fcb8b2fd0', 'a worm', retry_in => '1 hour');
$$;

revoke all on function queue_error from public;

-- functions/queue_error_many.sql
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

-- functions/queue_export.sql
create or replace function queue_export(
    queue text,
    after bigint default null,
    count integer default 1000,
    dead boolean default false,
    take boolean default false
)
returns table (
    id bigint,
    job jsonb,
    data jsonb,
    data_text text,
    data_bytes bytea
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
    v_left integer := queue_export.count;
    v_ids bigint[];
    v_taken integer := 0;
    v_rows integer;
begin
    if octet_length(queue_export.queue) between 1 and 255 is not true then
        perform _queue_refuse_name(queue_export.queue);
    end if;
    if session_user <> current_user
        or current_setting('session_authorization') = ''
        or current_setting('role') <> 'none'
    then
        if queue_export.take then
            perform _queue_allow(queue_export.queue, 'manage');
        else
            perform _queue_allow(queue_export.queue, 'observe', 'manage');
        end if;
    end if;
    if queue_export.count between 1 and 100000 is not true then
        perform _queue_refuse_count(queue_export.count);
    end if;

    after := coalesce(after, '-9223372036854775808');
    -- In steps, as in queue_clear: before PostgreSQL 17 each row is looked for in the whole array. What others have
    -- removed since the ids were read does not count: nothing at all would say that there is no more.
    loop
        if queue_export.dead then
            if queue_export.take then
                v_ids := array(
                    select d.id
                    from queue_dead d
                    where d.queue = queue_export.queue
                        and d.id > queue_export.after
                    order by d.id
                    limit least(v_left, 1000)
                    for update skip locked
                );
            else
                v_ids := array(
                    select d.id
                    from queue_dead d
                    where d.queue = queue_export.queue
                        and d.id > queue_export.after
                    order by d.id
                    limit least(v_left, 1000)
                );
            end if;
            exit when cardinality(v_ids) = 0;
            return query
            select
                d.id,
                -- Not what is inside of headers and history: a null may be somebody's.
                jsonb_strip_nulls(jsonb_build_object(
                    'id', d.id, 'died_at', d.died_at, 'reason', d.reason, 'priority', d.priority,
                    'enqueued_at', d.enqueued_at, 'schedule_at', d.schedule_at, 'expected_at', d.expected_at,
                    'attempts', d.attempts, 'max_attempts', d.max_attempts, 'last_error', d.last_error,
                    'progress_count', d.progress_count, 'consumer', d.consumer, 'dedupe_key', d.dedupe_key
                ))
                || case when d.headers is null then '{}' else jsonb_build_object('headers', d.headers) end
                || case when d.history is null then '{}' else jsonb_build_object('history', d.history) end,
                d.data, d.data_text, d.data_bytes
            from queue_dead d
            where d.queue = queue_export.queue
                and d.id > queue_export.after
                and d.id <= v_ids[cardinality(v_ids)]
                and d.id = any (v_ids)
            order by d.id;
            get diagnostics v_rows = row_count;
            v_left := v_left - v_rows;
            if queue_export.take then
                delete from queue_dead d
                where d.queue = queue_export.queue
                    and d.id > queue_export.after
                    and d.id <= v_ids[cardinality(v_ids)]
                    and d.id = any (v_ids);
                v_taken := v_taken + v_rows;
            end if;
        else
            if queue_export.take then
                v_ids := array(
                    select j.id
                    from queue_job j
                    where j.queue = queue_export.queue
                        and j.id > queue_export.after
                        -- A lease that runs is somebody's: the job may be done at this moment.
                        and (j.receipt is null or greatest(j.ready_at, j.lease_until) > v_now is not true)
                    order by j.id
                    limit least(v_left, 1000)
                    for update skip locked
                );
            else
                v_ids := array(
                    select j.id
                    from queue_job j
                    where j.queue = queue_export.queue
                        and j.id > queue_export.after
                    order by j.id
                    limit least(v_left, 1000)
                );
            end if;
            exit when cardinality(v_ids) = 0;
            return query
            select
                j.id,
                jsonb_strip_nulls(jsonb_build_object(
                    'id', j.id, 'priority', - j.rank, 'enqueued_at', j.enqueued_at, 'schedule_at', j.schedule_at,
                    'expected_at', nullif(j.expected_at, 'infinity'), 'ready_at', greatest(j.ready_at, j.lease_until),
                    'attempts', j.attempts, 'max_attempts', j.max_attempts, 'last_error', j.last_error,
                    'progress_count', j.progress_count, 'consumer', j.consumer, 'dedupe_key', j.dedupe_key
                ))
                || case when j.headers is null then '{}' else jsonb_build_object('headers', j.headers) end
                || case when j.history is null then '{}' else jsonb_build_object('history', j.history) end,
                j.data, j.data_text, j.data_bytes
            from queue_job j
            where j.queue = queue_export.queue
                and j.id > queue_export.after
                and j.id <= v_ids[cardinality(v_ids)]
                and j.id = any (v_ids)
            order by j.id;
            get diagnostics v_rows = row_count;
            v_left := v_left - v_rows;
            if queue_export.take then
                delete from queue_job j
                where j.queue = queue_export.queue
                    and j.id > queue_export.after
                    and j.id <= v_ids[cardinality(v_ids)]
                    and j.id = any (v_ids);
                v_taken := v_taken + v_rows;
            end if;
        end if;
        after := v_ids[cardinality(v_ids)];
    end loop;
    if v_taken > 0 then
        insert into queue_tally (queue, moved, dead)
        values (
            queue_export.queue,
            case when not queue_export.dead then - v_taken end,
            case when queue_export.dead then - v_taken end
        );
    end if;
end
$$;

comment on function queue_export is $$
Read the jobs of a queue with all that is kept of them, for `queue_import` in another database; with
**take**, remove them in the same transaction.

A page at a time, in the order of the ids: call it again with the last id as **after**, until it gives
nothing. In one transaction of REPEATABLE READ all pages show the same moment.

**queue**: name of the queue.
**after**: only jobs with a higher id; null begins at the first.
**count**: this many at most.
**dead**: true reads the dead jobs instead of those in the queue.
**take**: true also removes the jobs, when the transaction commits. Left where they are: jobs that a consumer
holds under a lease, and those that another transaction is taking at this moment.

Returns a row for each job: its **id**; **job**, an object of its fields (those that are null are left out), with
the failed attempts in `history`, and in `ready_at` when a waiting job comes due; and its data, in the one of
**data**, **data_text** and **data_bytes** that holds it.

A job that is leased comes due when its lease ends. Its consumer may complete it meanwhile: to move a queue, pause
it, let the leases end, and take.

Errors: 22023 for a bad name or a count below 1 or above 100,000.

    select id, job, data from queue_export('apples');
    select id, job, data from queue_export('apples', dead => true, take => true);
$$;

revoke all on function queue_export from public;

-- functions/queue_get.sql
create or replace function queue_get(
    queue text,
    count integer default 1,
    promote boolean default false
)
returns table (
    id bigint,
    data jsonb,
    data_text text,
    data_bytes bytea,
    priority integer,
    enqueued_at timestamptz,
    schedule_at timestamptz,
    expected_at timestamptz,
    attempts integer,
    max_attempts integer,
    last_error text,
    progress_count bigint,
    consumer text,
    dedupe_key text,
    headers jsonb
)
language plpgsql
volatile
rows 1
security definer
set search_path from current
-- A plan made while the table was empty, or its statistics stale, would scan and sort all
-- of it for as long as the session keeps that plan; and a count unknown to the generic plan
-- would have each call planned anew (2,000 calls/s instead of 5,000).
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_sort = off
-- Before PostgreSQL 18 a sort that is off costs 1e10, and a plan that dear is compiled at
-- each call: 155 ms.
set jit = off
as $$
#variable_conflict use_column
declare
    v_now timestamptz := clock_timestamp();
    v_name text;
    v_head text[];
    v_is_brief boolean := false;
    v_due timestamptz;
    v_promoted bigint[];
    v_ids bigint[];
    v_id bigint;
begin
    if (
        octet_length(queue_get.queue) between 1 and 255
        and queue_get.count between 1 and 100000
        and (
            session_user = current_user
            and current_setting('session_authorization') <> ''
            and current_setting('role') = 'none'
            or _queue_may(queue_get.queue, 'get')
        )
    ) is not true then
        if octet_length(queue_get.queue) between 1 and 255 is not true then
            perform _queue_refuse_name(queue_get.queue);
        end if;
        if queue_get.count between 1 and 100000 is not true then
            perform _queue_refuse_count(queue_get.count);
        end if;
        perform _queue_allow(queue_get.queue, 'get');
    end if;

    if coalesce(current_setting('pgq_py.has_head', true), '') = '' then
        -- Not EXISTS for what is due: without an order it may be looked for among all jobs (4 ms).
        select array(
            select j.id
            from queue_job j
            where j.queue = queue_get.queue and j.ready_at is null
            order by j.rank, j.expected_at, j.id
            limit queue_get.count
            for update skip locked
        )
        into v_ids
        where not exists (select from queue_setting s where s.queue = queue_get.queue and s.paused)
            and (
                select j.ready_at
                from queue_job j
                where j.queue = queue_get.queue and j.ready_at is not null and j.ready_at <= v_now
                order by j.ready_at
                limit 1
            ) is null;
        -- Next time see whether dead rows lie before the head, and go around them.
        if clock_timestamp() - v_now > interval '0.3 ms' * (1 + queue_get.count / 25) then
            perform set_config('pgq_py.has_head', concat(extract(epoch from v_now) + 1, ' ', queue), false);
        end if;
    else
        v_name := 'pgq_py.head_' || to_hex(hashtextextended(queue, 'queue_job'::regclass::oid::bigint));
        v_head := string_to_array(current_setting(v_name, true), ' ');
        -- As _queue_follow, which takes half as much again and moves the head on.
        if random() > 0.1 then
            v_is_brief := extract(epoch from v_now) between v_head[1]::float8 - 31 and v_head[1]::float8 and (
                v_head[6] = 'near'
                or v_head[6] in ('t', 'f') and coalesce(current_setting(replace(v_name, 'head', 'due'), true), '') = ''
            );
            if v_is_brief and v_head[6] = 't' then
                -- As two, since before PostgreSQL 18 a comparison of rows ends no scan but by its first column.
                v_is_brief := coalesce(
                    (
                        select j.id
                        from queue_job j
                        where j.queue = queue_get.queue and j.ready_at is null and j.rank < v_head[3]::integer
                        order by j.rank, j.expected_at, j.id
                        limit 1
                    ),
                    (
                        select j.id
                        from queue_job j
                        where j.queue = queue_get.queue and j.ready_at is null and j.rank = v_head[3]::integer
                            and j.expected_at < v_head[4]::timestamptz
                        order by j.rank, j.expected_at, j.id
                        limit 1
                    )
                ) is null;
            end if;
        end if;
        if v_is_brief then
            select array(
                select j.id
                from queue_job j
                where j.queue = queue_get.queue and j.ready_at is null
                    and (j.rank, j.expected_at, j.id)
                        >= (v_head[3]::integer, v_head[4]::timestamptz, v_head[5]::bigint)
                order by j.rank, j.expected_at, j.id
                limit queue_get.count
                for update skip locked
            )
            into v_ids
            where not exists (select from queue_setting s where s.queue = queue_get.queue and s.paused)
                and (
                    select j.ready_at
                    from queue_job j
                    where j.queue = queue_get.queue and j.ready_at is not null and j.ready_at <= v_now
                    order by j.ready_at
                    limit 1
                ) is null;
            if cardinality(v_ids) < queue_get.count then
                v_ids := null;
            end if;
        end if;
        -- Whoever finds too few behind a near head looks from the start.
        if v_ids is null and v_head[6] is not null and (v_is_brief and v_head[6] = 'near') is not true then
            v_ids := _queue_follow(queue_get.queue, v_now, queue_get.count);
        end if;
    end if;
    if v_ids is null then
        if exists (select from queue_setting s where s.queue = queue_get.queue and s.paused) then
            return;
        end if;
        v_due := _queue_due(queue_get.queue, v_now);
        if v_due is not null and not queue_get.promote then
            v_ids := _queue_pick(queue_get.queue, v_due, v_now, queue_get.count);
        else
            if v_due is not null then
                -- Steps of a bounded size: 200,000 jobs that come due together must not make this
                -- call wait for all of them.
                v_promoted := _queue_promote(queue_get.queue, v_due, v_now, greatest(100, queue_get.count));
            end if;
            v_ids := _queue_claim(queue_get.queue, queue_get.count, v_promoted);
        end if;
    end if;

    if queue_get.count > 1 and _queue_has_sets() then
        return query
        with gone as (
            delete from queue_job j where j.queue = queue_get.queue and j.id = any (v_ids) returning j.*
        )
        select
            g.id,
            g.data,
            g.data_text,
            g.data_bytes,
            - g.rank,
            g.enqueued_at,
            g.schedule_at,
            nullif(g.expected_at, 'infinity'),
            g.attempts,
            g.max_attempts,
            g.last_error,
            g.progress_count,
            g.consumer,
            g.dedupe_key,
            g.headers
        from gone g
        order by g.rank, g.expected_at, g.id;
    else
        foreach v_id in array v_ids loop
            return query
            delete from queue_job j
            where j.queue = queue_get.queue and j.id = v_id
            returning
                j.id,
                j.data,
                j.data_text,
                j.data_bytes,
                - j.rank,
                j.enqueued_at,
                j.schedule_at,
                nullif(j.expected_at, 'infinity'),
                j.attempts,
                j.max_attempts,
                j.last_error,
                j.progress_count,
                j.consumer,
                j.dedupe_key,
                j.headers;
        end loop;
    end if;

    if v_ids[1] is not null then
        insert into queue_tally (queue, taken) values (queue_get.queue, cardinality(v_ids));
        if random() < 0.005 then
            perform _queue_fold(queue_get.queue);
        end if;
    end if;

    -- Takers that came by meanwhile could not see what was promoted here, and sleep.
    if v_promoted is not null then
        if exists (select unnest(v_promoted) except select unnest(v_ids)) then
            perform _queue_wake(queue_get.queue);
        end if;
    end if;
end
$$;

comment on function queue_get is $$
Take jobs out of a queue, in the caller's transaction.

The jobs leave the queue when the transaction commits; until then nobody else sees them,
and after a rollback, or when the connection is lost, it is as if they had never been
taken. What the caller writes in the same transaction stands or falls with that: each job
has exactly one effect. Made for short work; an open transaction holds back vacuum for the
whole server.

Jobs come in the order: higher priority, then earlier expected_at, then lower id. Jobs that
others hold are passed over. A paused queue gives none.

**queue**: name of the queue.
**count**: take up to this many, 1 by default.
**promote**: true only from a caller who commits at once. It also moves a bounded number of
other jobs that have come due to the ready ones, for all takers, and notifies the queue's
channel; they would be hidden for as long as the transaction stays open. Without it only the
jobs taken are touched. Either way, of more than about 100 jobs that come due at once, those
due first are considered first.

Returns one row for each job, none if there is nothing to take.

Errors: 22023 for a bad name or a count below 1 or above 100,000; 40001 above READ COMMITTED, where another
transaction took the job first: roll back and try again.

    select id, data from queue_get('apples');
$$;

revoke all on function queue_get from public;

-- functions/queue_get_any.sql
create or replace function queue_get_any(
    queues text[],
    count integer default 1,
    promote boolean default false
)
returns table (
    queue text,
    id bigint,
    data jsonb,
    data_text text,
    data_bytes bytea,
    priority integer,
    enqueued_at timestamptz,
    schedule_at timestamptz,
    expected_at timestamptz,
    attempts integer,
    max_attempts integer,
    last_error text,
    progress_count bigint,
    consumer text,
    dedupe_key text,
    headers jsonb
)
language plpgsql
volatile
rows 1
security definer
set search_path from current
as $$
#variable_conflict use_column
declare
    -- An array may begin at any place, and have more dimensions than one.
    v_queues text[] := case
        when array_lower(queues, 1) = 1 and array_ndims(queues) = 1 then queues
        else array(select unnest(queues))
    end;
    v_place integer := 1;
    -- 0 while each is asked in turn.
    v_next integer := 1;
    v_vain integer := 0;
    v_left integer := count;
    v_rows bigint;
begin
    if queue_get_any.count between 1 and 100000 is not true then
        perform _queue_refuse_count(queue_get_any.count);
    end if;
    if session_user <> current_user
        or current_setting('session_authorization') = ''
        or current_setting('role') <> 'none'
    then
        -- All of them before any is looked at: whether there are jobs in it is told by no queue without the right.
        perform _queue_allow(q.name, 'get')
        from unnest(queues) as q (name)
        where octet_length(q.name) between 1 and 255;
    end if;
    while v_place <= cardinality(v_queues) loop
        return query
        select
            v_queues[v_place], g.id, g.data, g.data_text, g.data_bytes, g.priority, g.enqueued_at, g.schedule_at,
            g.expected_at, g.attempts, g.max_attempts, g.last_error, g.progress_count, g.consumer,
            g.dedupe_key, g.headers
        from queue_get(v_queues[v_place], v_left, queue_get_any.promote) g;
        get diagnostics v_rows = row_count;
        v_left := v_left - v_rows;
        exit when v_left = 0;
        v_place := v_place + 1;
        -- Where many that seemed to have a job gave none, they are paused or all is locked: to ask is cheaper.
        v_vain := v_vain + (v_rows = 0)::integer;
        if v_rows = 0 and v_next <> 0 and v_vain <= 8 and v_place < cardinality(v_queues) then
            v_next := _queue_next(v_queues, v_place);
            v_place := coalesce(nullif(v_next, 0), v_place);
            exit when v_next is null;
        end if;
    end loop;
end
$$;

comment on function queue_get_any is $$
Take jobs out of several queues, in the caller's transaction.

The first queue that has jobs gives them, then the next, until the count is reached. To be
fair to all, begin each call with another queue.

**queues**: names of the queues, in the order in which they are asked.
**count**, **promote**: as in `queue_get`; the count is of all queues together.

Returns one row for each job with the name of its queue, none if there is nothing to take.

Errors: those of `queue_get`.

    select queue, id, data from queue_get_any(array['urgent', 'apples']);
$$;

revoke all on function queue_get_any from public;

-- functions/queue_grant.sql
create or replace function queue_grant(
    queue text,
    role text,
    privilege text
)
returns boolean
language plpgsql
volatile
security definer
set search_path from current
as $$
begin
    if octet_length(queue_grant.queue) between 1 and 255 is not true then
        perform _queue_refuse_name(queue_grant.queue);
    end if;
    if session_user <> current_user
        or current_setting('session_authorization') = ''
        or current_setting('role') <> 'none'
    then
        perform _queue_allow(queue_grant.queue, 'grant');
    end if;
    return _queue_give(queue_grant.queue, queue_grant.role, queue_grant.privilege);
end
$$;

comment on function queue_grant is $$
Give a role a right on one queue. The owner of the functions has all rights; all others have none
but what they are given here. The role also gets EXECUTE on the functions that it needs, and
USAGE on the schema.

**queue**: name of the queue, which need not be there. A right is on the name: `queue_drop`
leaves it.
**role**: name of the role, as it is: `'Web Role'`, without quotes of its own. A member of the
role has the right, too, unless it does not inherit.
**privilege**: one of
`put`: put jobs, nothing else;
`get`: take jobs, and complete, fail, release or bury them; be notified;
`observe`: list, count, and see statistics, settings and the dead;
`manage`: all that `observe` may, and create, drop, pause, resume, clear, cancel, update, redrive.

Returns true if the role did not have this right itself.

Errors: 22023 for a bad name or privilege; 42704 for a role that there is not; 42501 if the caller
is not the owner, or the owner may not give USAGE on the schema; 55000 while others can make
functions in the schema, which could be run with the owner's rights.

    select queue_grant('apples', 'web', 'put');
$$;

revoke all on function queue_grant from public;

-- functions/queue_grant_all.sql
create or replace function queue_grant_all(
    role text,
    privilege text
)
returns boolean
language plpgsql
volatile
security definer
set search_path from current
as $$
begin
    if session_user <> current_user
        or current_setting('session_authorization') = ''
        or current_setting('role') <> 'none'
    then
        perform _queue_allow('', 'grant');
    end if;
    return _queue_give('', queue_grant_all.role, queue_grant_all.privilege);
end
$$;

comment on function queue_grant_all is $$
Give a role a right on all queues, those that are not there yet among them. `queue_health` needs
`observe` on all queues, `queue_maintain` needs `manage` on all.

**role**, **privilege**: as in `queue_grant`.

Returns true if the role did not have this right itself.

Errors: those of `queue_grant`.

    select queue_grant_all('monitoring', 'observe');
$$;

revoke all on function queue_grant_all from public;

-- functions/queue_health.sql
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

-- functions/queue_import.sql
create or replace function queue_import(
    queue text,
    jobs jsonb[],
    data jsonb[],
    data_text text[] default null,
    data_bytes bytea[] default null,
    append boolean default false
)
returns table (
    id bigint,
    is_new boolean
)
language plpgsql
volatile
security definer
set search_path from current
set enable_seqscan = off
as $$
#variable_conflict use_column
declare
    v_now timestamptz := clock_timestamp();
    v_size integer := coalesce(cardinality(jobs), 0);
    v_new_ids bigint[];
    v_ids bigint[];
    v_wrong text;
    -- An entry of a history that is none of queue_export's: `at` is text there that every language can read.
    v_odd jsonpath := $path$
        $.history[*].type() != "object" || exists($.history[*] ? (!(
            @.attempt.type() == "number"
            && @.at.type() == "string"
            && @.at like_regex "^\\d{4}-\\d\\d-\\d\\dT([01]\\d|2[0-3])(:[0-5]\\d){2}(\\.\\d+)?[+-]\\d\\d(:\\d\\d){1,2}$"
            && (!exists(@.consumer) || @.consumer.type() == "null" || @.consumer.type() == "string")
            && (!exists(@.error) || @.error.type() == "null" || @.error.type() == "string")
        )))
    $path$;
    v_live bigint;
    v_dead bigint;
begin
    if octet_length(queue_import.queue) between 1 and 255 is not true then
        perform _queue_refuse_name(queue_import.queue);
    end if;
    if session_user <> current_user
        or current_setting('session_authorization') = ''
        or current_setting('role') <> 'none'
    then
        perform _queue_allow(queue_import.queue, 'manage');
    end if;
    if v_size > 100000 then
        perform _queue_refuse_count(v_size);
    end if;
    if cardinality(queue_import.data) <> v_size then
        perform _queue_refuse_sizes('data', cardinality(queue_import.data), v_size);
    end if;
    if cardinality(queue_import.data_text) <> v_size then
        perform _queue_refuse_sizes('data_text', cardinality(queue_import.data_text), v_size);
    end if;
    if cardinality(queue_import.data_bytes) <> v_size then
        perform _queue_refuse_sizes('data_bytes', cardinality(queue_import.data_bytes), v_size);
    end if;
    if not queue_import.append then
        -- Two imports of the same at the same time: the second waits here for the end of the first. An update, so
        -- that one that could not see the first, in REPEATABLE READ, fails.
        insert into queue_setting (queue) values (queue_import.queue)
        on conflict (queue) do update set queue = excluded.queue;
        if exists (select from queue_job j where j.queue = queue_import.queue)
            or exists (select from queue_dead d where d.queue = queue_import.queue)
            or exists (select from queue_tally t where t.queue = queue_import.queue)
            or exists (select from queue_total t where t.queue = queue_import.queue)
        then
            raise exception using
                errcode = 'object_not_in_prerequisite_state',
                message = format('the queue %L has been used: what is imported could be there already', queue),
                hint = 'Import into a queue without a past (queue_drop takes it away), or, to add to what there is: '
                    'append => true.';
        end if;
    end if;
    -- What no other function would store: it could neither be taken nor put back.
    v_wrong := (
        select
            case
                when r.priority = -2147483648 then 'priority'
                when r.attempts not between 0 and 2147483646 then 'attempts'
                when r.max_attempts < 1 then 'max_attempts'
                when octet_length(r.dedupe_key) > 1024 then 'dedupe_key'
                when octet_length(r.consumer) > 255 then 'consumer'
                when octet_length((u.job -> 'headers')::text) > 65536 then 'headers'
                when jsonb_typeof(u.job -> 'history') <> 'array' or u.job @@ v_odd then 'history'
                when r.died_at is not null and r.reason is null then 'reason'
                when num_nonnulls(u.data, u.data_text, u.data_bytes) > 1 then 'data'
                when coalesce(octet_length(u.data_bytes), octet_length(u.data_text)) > 268435455 then 'data'
            end
        from unnest(queue_import.jobs, queue_import.data, queue_import.data_text, queue_import.data_bytes)
            as u (job, data, data_text, data_bytes)
        cross join lateral jsonb_to_record(u.job) as r (
            priority integer, attempts integer, max_attempts integer, dedupe_key text, consumer text,
            died_at timestamptz, reason text
        )
        where coalesce(
            r.priority = -2147483648
            or r.attempts not between 0 and 2147483646
            or r.max_attempts < 1
            or octet_length(r.dedupe_key) > 1024
            or octet_length(r.consumer) > 255
            or octet_length((u.job -> 'headers')::text) > 65536
            or jsonb_typeof(u.job -> 'history') <> 'array'
            or u.job @@ v_odd
            or r.died_at is not null and r.reason is null
            or num_nonnulls(u.data, u.data_text, u.data_bytes) > 1
            or coalesce(octet_length(u.data_bytes), octet_length(u.data_text)) > 268435455,
            false
        )
        limit 1
    );
    if v_wrong is not null then
        raise exception using
            errcode = 'invalid_parameter_value',
            message = format('the %s of a job is what no job can have', v_wrong),
            hint = 'Give what queue_export gave.';
    end if;
    perform _queue_check_json(d) from unnest(queue_import.data) as d where _queue_is_large(d);
    perform _queue_time(t.name, t.at, null, null)
    from unnest(queue_import.jobs) as u (job)
    cross join lateral jsonb_to_record(u.job) as r (
        enqueued_at timestamptz, schedule_at timestamptz, expected_at timestamptz, ready_at timestamptz,
        died_at timestamptz
    )
    cross join lateral (
        values
            ('enqueued', r.enqueued_at), ('schedule', r.schedule_at), ('expected', r.expected_at),
            ('ready', r.ready_at), ('died', r.died_at)
    ) t (name, at);
    -- What looks like a number or a time is one.
    perform h.attempt, h.at
    from unnest(queue_import.jobs) as u (job)
    cross join lateral jsonb_to_recordset(u.job -> 'history') as h (attempt integer, at timestamptz);

    v_new_ids := array(
        select nextval(pg_get_serial_sequence('queue_job', 'id')) from generate_series(1, v_size)
    );
    insert into queue_dead (
        queue, id, died_at, reason, data, data_text, data_bytes, priority, enqueued_at, schedule_at, expected_at,
        attempts, max_attempts, last_error, progress_count, consumer, dedupe_key, headers, history
    )
    select
        queue_import.queue, u.new_id, r.died_at, left(r.reason, 2000),
        case when num_nulls(u.data_text, u.data_bytes) = 2 then coalesce(u.data, 'null') end,
        u.data_text, u.data_bytes, coalesce(r.priority, 0), r.enqueued_at, r.schedule_at, r.expected_at,
        coalesce(r.attempts, 0), r.max_attempts, right(r.last_error, 2000), r.progress_count, r.consumer,
        r.dedupe_key, u.job -> 'headers', u.job -> 'history'
    from unnest(
        v_new_ids, queue_import.jobs, queue_import.data, queue_import.data_text, queue_import.data_bytes
    ) as u (new_id, job, data, data_text, data_bytes)
    cross join lateral jsonb_to_record(u.job) as r (
        priority integer, enqueued_at timestamptz, schedule_at timestamptz, expected_at timestamptz,
        attempts integer, max_attempts integer, last_error text, progress_count bigint, consumer text,
        dedupe_key text, died_at timestamptz, reason text
    )
    where r.died_at is not null;
    get diagnostics v_dead = row_count;

    -- In the order of the keys, as queue_put_many: no deadlock with batches that share them.
    with imported as (
        insert into queue_job (
            id, queue, enqueued_at, ready_at, schedule_at, expected_at, rank, attempts, max_attempts, last_error,
            progress_count, consumer, dedupe_key, headers, history, data, data_text, data_bytes
        )
        overriding system value
        select
            u.new_id, queue_import.queue, coalesce(r.enqueued_at, v_now),
            case when coalesce(r.ready_at, r.schedule_at) > v_now then coalesce(r.ready_at, r.schedule_at) end,
            r.schedule_at, coalesce(r.expected_at, 'infinity'), - coalesce(r.priority, 0),
            coalesce(r.attempts, 0), r.max_attempts, right(r.last_error, 2000), r.progress_count, r.consumer,
            r.dedupe_key, u.job -> 'headers', u.job -> 'history',
            case when num_nulls(u.data_text, u.data_bytes) = 2 then coalesce(u.data, 'null') end,
            u.data_text, u.data_bytes
        from unnest(
            v_new_ids, queue_import.jobs, queue_import.data, queue_import.data_text, queue_import.data_bytes
        ) with ordinality as u (new_id, job, data, data_text, data_bytes, n)
        cross join lateral jsonb_to_record(u.job) as r (
            priority integer, enqueued_at timestamptz, schedule_at timestamptz, expected_at timestamptz,
            ready_at timestamptz, attempts integer, max_attempts integer, last_error text, progress_count bigint,
            consumer text, dedupe_key text, died_at timestamptz
        )
        where r.died_at is null
        order by r.dedupe_key collate "C", u.n
        on conflict (queue, dedupe_key) where dedupe_key is not null do nothing
        returning id
    )
    select count(*), array_agg(i.id) into v_live, v_ids
    from imported i;

    if v_live > 0 or v_dead > 0 then
        insert into queue_tally (queue, put, dead)
        values (queue_import.queue, nullif(v_live, 0), nullif(v_dead, 0));
    end if;
    if v_live > 0 then
        perform _queue_wake(queue_import.queue);
    end if;
    return query
    select
        u.new_id,
        i.id is not null or u.job ->> 'died_at' is not null
    from unnest(v_new_ids, queue_import.jobs) with ordinality as u (new_id, job, n)
    left join unnest(v_ids) as i (id) on i.id = u.new_id
    order by u.n;
end
$$;

comment on function queue_import is $$
Put jobs that `queue_export` read, in another database or in this one, into a queue with all that was kept of them:
times, priorities, attempts and their history, keys, headers. Those with `died_at` go among the dead.

They get new ids, in the order in which they are given. What is scheduled, backs off or was leased waits for the
same time as before. A queue's limits do not keep them out.

**queue**: name of the queue.
**jobs**: for each job the object `job` of `queue_export`; fields may be missing. `history` is as in
`queue_dead_list`, its `consumer` and `error` may be missing, and `at` is as in `2026-11-27T17:00:00+00:00`.
**data**, **data_text**, **data_bytes**: for each job its data, in one of the three arrays; null in the other two.
**append**: false, the default, refuses a queue that has jobs, dead jobs or totals: an import that is repeated by
mistake puts nothing twice. The first call of an import in parts has false, those that follow in the same transaction
have true.

Returns a row for each job, in the order given: its **id**, and **is_new**, false where its dedupe_key is in the
queue already: then it was not stored, and there is no job with this id.

Errors: 22023 for a bad name, more than 100,000 jobs or what no job can have; 2202E where the arrays differ in
length; 22003, 22007, 22008 and 22P02 for a number or a time that is none or out of range; 55000 for a queue that was
used before; QU002 for JSON that is too large, as in `queue_put`.

    select id from queue_import('apples', array['{"priority": 3}']::jsonb[], array['{"kind": "Cox"}']::jsonb[]);
$$;

revoke all on function queue_import from public;

-- functions/queue_lease.sql
create or replace function queue_lease(
    queue text,
    count integer default 1,
    lease interval default null,
    consumer text default null,
    promote boolean default true
)
returns table (
    id bigint,
    receipt uuid,
    lease_until timestamptz,
    data jsonb,
    data_text text,
    data_bytes bytea,
    priority integer,
    enqueued_at timestamptz,
    schedule_at timestamptz,
    expected_at timestamptz,
    attempts integer,
    max_attempts integer,
    last_error text,
    progress_count bigint,
    dedupe_key text,
    headers jsonb
)
language plpgsql
volatile
rows 1
security definer
set search_path from current
-- As in queue_get.
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_sort = off
set jit = off
as $$
#variable_conflict use_column
declare
    v_now timestamptz := clock_timestamp();
    v_receipt uuid := gen_random_uuid();
    v_paused boolean;
    v_lease interval;
    v_name text;
    v_head text[];
    v_is_brief boolean := false;
    v_due timestamptz;
    v_promoted bigint[];
    v_ids bigint[];
    v_id bigint;
begin
    if (
        octet_length(queue_lease.queue) between 1 and 255
        and queue_lease.count between 1 and 100000
        and (queue_lease.consumer is null or octet_length(queue_lease.consumer) <= 255)
        and (
            session_user = current_user
            and current_setting('session_authorization') <> ''
            and current_setting('role') = 'none'
            or _queue_may(queue_lease.queue, 'get')
        )
    ) is not true then
        if octet_length(queue_lease.queue) between 1 and 255 is not true then
            perform _queue_refuse_name(queue_lease.queue);
        end if;
        if queue_lease.count between 1 and 100000 is not true then
            perform _queue_refuse_count(queue_lease.count);
        end if;
        perform _queue_allow(queue_lease.queue, 'get');
        perform _queue_refuse_length('consumer', octet_length(queue_lease.consumer), 255);
    end if;
    if queue_lease.lease is not null then
        if not queue_lease.lease between interval '1 microsecond' and interval '10 years' then
            perform _queue_refuse_lease(queue_lease.lease);
        end if;
    end if;

    -- As in queue_get.
    if coalesce(current_setting('pgq_py.has_head', true), '') = '' then
        select
            coalesce(queue_lease.lease, s.lease_for, '5 minutes'),
            array(
                select j.id
                from queue_job j
                where j.queue = queue_lease.queue and j.ready_at is null
                order by j.rank, j.expected_at, j.id
                limit queue_lease.count
                for update skip locked
            )
        into v_lease, v_ids
        from (select) as always
        left join queue_setting s on s.queue = queue_lease.queue
        where s.paused is not true
            and (
                select j.ready_at
                from queue_job j
                where j.queue = queue_lease.queue and j.ready_at is not null and j.ready_at <= v_now
                order by j.ready_at
                limit 1
            ) is null;
        if clock_timestamp() - v_now > interval '0.3 ms' * (1 + queue_lease.count / 25) then
            perform set_config('pgq_py.has_head', concat(extract(epoch from v_now) + 1, ' ', queue), false);
        end if;
    else
        v_name := 'pgq_py.head_' || to_hex(hashtextextended(queue, 'queue_job'::regclass::oid::bigint));
        v_head := string_to_array(current_setting(v_name, true), ' ');
        -- As _queue_follow, which takes half as much again and moves the head on.
        if random() > 0.1 then
            v_is_brief := extract(epoch from v_now) between v_head[1]::float8 - 31 and v_head[1]::float8 and (
                v_head[6] = 'near'
                or v_head[6] in ('t', 'f') and coalesce(current_setting(replace(v_name, 'head', 'due'), true), '') = ''
            );
            if v_is_brief and v_head[6] = 't' then
                -- As two, since before PostgreSQL 18 a comparison of rows ends no scan but by its first column.
                v_is_brief := coalesce(
                    (
                        select j.id
                        from queue_job j
                        where j.queue = queue_lease.queue and j.ready_at is null and j.rank < v_head[3]::integer
                        order by j.rank, j.expected_at, j.id
                        limit 1
                    ),
                    (
                        select j.id
                        from queue_job j
                        where j.queue = queue_lease.queue and j.ready_at is null and j.rank = v_head[3]::integer
                            and j.expected_at < v_head[4]::timestamptz
                        order by j.rank, j.expected_at, j.id
                        limit 1
                    )
                ) is null;
            end if;
        end if;
        if v_is_brief then
            select coalesce(queue_lease.lease, s.lease_for, '5 minutes'), array(
                select j.id
                from queue_job j
                where j.queue = queue_lease.queue and j.ready_at is null
                    and (j.rank, j.expected_at, j.id)
                        >= (v_head[3]::integer, v_head[4]::timestamptz, v_head[5]::bigint)
                order by j.rank, j.expected_at, j.id
                limit queue_lease.count
                for update skip locked
            )
            into v_lease, v_ids
            from (select) as always
            left join queue_setting s on s.queue = queue_lease.queue
            where s.paused is not true
                and (
                    select j.ready_at
                    from queue_job j
                    where j.queue = queue_lease.queue and j.ready_at is not null and j.ready_at <= v_now
                    order by j.ready_at
                    limit 1
                ) is null;
            if cardinality(v_ids) < queue_lease.count then
                v_ids := null;
                v_lease := null;
            end if;
        end if;
        -- Whoever finds too few behind a near head looks from the start.
        if v_ids is null and v_head[6] is not null and (v_is_brief and v_head[6] = 'near') is not true then
            v_ids := _queue_follow(queue_lease.queue, v_now, queue_lease.count);
        end if;
    end if;
    if v_lease is null then
        select coalesce(queue_lease.lease, s.lease_for, '5 minutes'), s.paused
        into v_lease, v_paused
        from (select) as always
        left join queue_setting s on s.queue = queue_lease.queue;
    end if;
    if v_ids is null then
        if v_paused then
            return;
        end if;
        v_due := _queue_due(queue_lease.queue, v_now);
        if v_due is not null and not queue_lease.promote then
            v_ids := _queue_pick(queue_lease.queue, v_due, v_now, queue_lease.count);
        else
            if v_due is not null then
                v_promoted := _queue_promote(queue_lease.queue, v_due, v_now, greatest(100, queue_lease.count));
            end if;
            v_ids := _queue_claim(queue_lease.queue, queue_lease.count, v_promoted);
        end if;
    end if;

    -- Large data stay where they are, out of line.
    if queue_lease.count > 1 and _queue_has_sets() then
        return query
        with leased as (
            update queue_job j
            set ready_at = v_now + v_lease,
                lease_until = v_now + v_lease,
                receipt = v_receipt,
                consumer = queue_lease.consumer,
                attempts = j.attempts + 1
            where j.queue = queue_lease.queue and j.id = any (v_ids)
            returning j.*
        )
        select
            l.id,
            l.receipt,
            l.lease_until,
            l.data,
            l.data_text,
            l.data_bytes,
            - l.rank,
            l.enqueued_at,
            l.schedule_at,
            nullif(l.expected_at, 'infinity'),
            l.attempts,
            l.max_attempts,
            l.last_error,
            l.progress_count,
            l.dedupe_key,
            l.headers
        from leased l
        order by l.rank, l.expected_at, l.id;
    else
        foreach v_id in array v_ids loop
            return query
            update queue_job j
            set ready_at = v_now + v_lease,
                lease_until = v_now + v_lease,
                receipt = v_receipt,
                consumer = queue_lease.consumer,
                attempts = j.attempts + 1
            where j.queue = queue_lease.queue and j.id = v_id
            returning
                j.id,
                j.receipt,
                j.lease_until,
                j.data,
                j.data_text,
                j.data_bytes,
                - j.rank,
                j.enqueued_at,
                j.schedule_at,
                nullif(j.expected_at, 'infinity'),
                j.attempts,
                j.max_attempts,
                j.last_error,
                j.progress_count,
                j.dedupe_key,
                j.headers;
        end loop;
    end if;

    -- Takers that came by meanwhile could not see what was promoted here, and sleep.
    if v_promoted is not null then
        if exists (select unnest(v_promoted) except select unnest(v_ids)) then
            perform _queue_wake(queue_lease.queue);
        end if;
    end if;
end
$$;

comment on function queue_lease is $$
Lease jobs of a queue: the caller holds them for a time, in no transaction.

For work that takes more than a second or so, where a transaction kept open would hold back
vacuum for the whole server. Commit at once; then work; then `queue_complete` removes the
job. A job that is not completed comes back: at once with `queue_release`, after a pause
with `queue_error`, and when the lease runs out, by itself. So each job is done at least
once, and a consumer that stops or dies in the middle leaves its work to be done again.

Each lease has a receipt of its own. Only with it, and only until the lease runs out, can
the job be completed, failed, extended or returned: a consumer that was away for too long
can't disturb the one that has the job now.

A lease counts as an attempt from its beginning. A job whose attempts are used up (its
`max_attempts`, or those of the queue, or 5) goes to the dead: see `queue_dead_list`.

Jobs come in the order of `queue_get`. A paused queue gives none.

**queue**: name of the queue.
**count**: lease up to this many, 1 by default.
**lease**: for how long, by default as the queue says (`queue_create`), or 5 minutes. What
takes longer can be extended with `queue_progress`.
**consumer**: a name for whoever works on it, kept with the job for those who look.
**promote**: as in `queue_get`. Here true by default, since a lease is good for nothing before it
is committed. False for a transaction that stays open: other jobs that have come due would be
hidden for as long.

Returns one row for each job, none if there is nothing to take: the columns of `queue_get`
but the consumer, the **receipt**, and **lease_until**, when the lease runs out. **attempts** counts this one.

Errors: 22023 for a bad name, a count below 1 or above 100,000, a lease that is not above
zero or a consumer of more than 255 bytes; 22008 for a lease of more than 10 years; 40001
above READ COMMITTED, where another transaction took the job first: roll back and try again.

    select id, receipt, data from queue_lease('apples', lease => '10 minutes');
$$;

revoke all on function queue_lease from public;

-- functions/queue_lease_any.sql
create or replace function queue_lease_any(
    queues text[],
    count integer default 1,
    lease interval default null,
    consumer text default null,
    promote boolean default true
)
returns table (
    queue text,
    id bigint,
    receipt uuid,
    lease_until timestamptz,
    data jsonb,
    data_text text,
    data_bytes bytea,
    priority integer,
    enqueued_at timestamptz,
    schedule_at timestamptz,
    expected_at timestamptz,
    attempts integer,
    max_attempts integer,
    last_error text,
    progress_count bigint,
    dedupe_key text,
    headers jsonb
)
language plpgsql
volatile
rows 1
security definer
set search_path from current
as $$
#variable_conflict use_column
declare
    -- An array may begin at any place, and have more dimensions than one.
    v_queues text[] := case
        when array_lower(queues, 1) = 1 and array_ndims(queues) = 1 then queues
        else array(select unnest(queues))
    end;
    v_place integer := 1;
    -- 0 while each is asked in turn.
    v_next integer := 1;
    v_vain integer := 0;
    v_left integer := count;
    v_rows bigint;
begin
    if queue_lease_any.count between 1 and 100000 is not true then
        perform _queue_refuse_count(queue_lease_any.count);
    end if;
    if session_user <> current_user
        or current_setting('session_authorization') = ''
        or current_setting('role') <> 'none'
    then
        -- All of them before any is looked at: whether there are jobs in it is told by no queue without the right.
        perform _queue_allow(q.name, 'get')
        from unnest(queues) as q (name)
        where octet_length(q.name) between 1 and 255;
    end if;
    while v_place <= cardinality(v_queues) loop
        return query
        select
            v_queues[v_place], g.id, g.receipt, g.lease_until, g.data, g.data_text, g.data_bytes, g.priority,
            g.enqueued_at, g.schedule_at, g.expected_at, g.attempts, g.max_attempts, g.last_error,
            g.progress_count, g.dedupe_key, g.headers
        from queue_lease(
            v_queues[v_place], v_left, queue_lease_any.lease, queue_lease_any.consumer, queue_lease_any.promote
        ) g;
        get diagnostics v_rows = row_count;
        v_left := v_left - v_rows;
        exit when v_left = 0;
        v_place := v_place + 1;
        -- Where many that seemed to have a job gave none, they are paused or all is locked: to ask is cheaper.
        v_vain := v_vain + (v_rows = 0)::integer;
        if v_rows = 0 and v_next <> 0 and v_vain <= 8 and v_place < cardinality(v_queues) then
            v_next := _queue_next(v_queues, v_place);
            v_place := coalesce(nullif(v_next, 0), v_place);
            exit when v_next is null;
        end if;
    end loop;
end
$$;

comment on function queue_lease_any is $$
Lease jobs of several queues, as `queue_lease` does of one.

The first queue that has jobs gives them, then the next, until the count is reached. To be
fair to all, begin each call with another queue.

**queues**: names of the queues, in the order in which they are asked.
**count**, **lease**, **consumer**, **promote**: as in `queue_lease`; the count is of all queues together.

Returns one row for each job with the name of its queue, none if there is nothing to take.

Errors: those of `queue_lease`.

    select queue, id, receipt, data from queue_lease_any(array['urgent', 'apples']);
$$;

revoke all on function queue_lease_any from public;

-- functions/queue_list.sql
create or replace function queue_list(
    queue text,
    scheduled boolean default false,
    count integer default null
)
returns table (
    id bigint,
    data jsonb,
    data_text text,
    data_bytes bytea,
    priority integer,
    enqueued_at timestamptz,
    schedule_at timestamptz,
    expected_at timestamptz,
    attempts integer,
    max_attempts integer,
    last_error text,
    progress_count bigint,
    consumer text,
    dedupe_key text,
    headers jsonb,
    ready_at timestamptz
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
begin
    if octet_length(queue_list.queue) between 1 and 255 is not true then
        perform _queue_refuse_name(queue_list.queue);
    end if;
    if session_user <> current_user
        or current_setting('session_authorization') = ''
        or current_setting('role') <> 'none'
    then
        perform _queue_allow(queue_list.queue, 'observe', 'manage');
    end if;
    if queue_list.count < 1 then
        perform _queue_refuse_count(queue_list.count);
    end if;
    -- In four parts, so that the first of a million jobs are read from an index.
    return query
    select
        l.id, l.data, l.data_text, l.data_bytes, - l.rank, l.enqueued_at, l.schedule_at,
        nullif(l.expected_at, 'infinity'), l.attempts, l.max_attempts, l.last_error,
        l.progress_count, l.consumer, l.dedupe_key, l.headers, greatest(l.ready_at, l.lease_until)
    from (
        (
            select j.*
            from queue_job j
            where j.queue = queue_list.queue and j.ready_at is null
            order by j.rank, j.expected_at, j.id
            limit queue_list.count
        )
        union all
        (
            select j.*
            from queue_job j
            where j.queue = queue_list.queue
                and j.ready_at is not null
                and j.ready_at <= v_now
                and (j.lease_until is null or j.lease_until <= v_now)
            order by j.rank, j.expected_at, j.id
            limit queue_list.count
        )
        union all
        (
            select j.*
            from queue_job j
            where queue_list.scheduled and j.queue = queue_list.queue and j.ready_at is not null and j.ready_at > v_now
            order by j.ready_at
            limit queue_list.count
        )
        union all
        -- Leases that heartbeats have extended beyond the time they are found by.
        (
            select j.*
            from queue_job j
            where queue_list.scheduled
                and j.queue = queue_list.queue
                and j.ready_at is not null
                and j.ready_at <= v_now
                and j.lease_until > v_now
            order by j.ready_at
            limit queue_list.count
        )
    ) l
    -- All that could be taken now counts as due now, and sorts as it would be taken.
    order by coalesce(greatest(l.ready_at, l.lease_until, v_now), v_now), l.rank, l.expected_at, l.id
    limit queue_list.count;
end
$$;

comment on function queue_list is $$
Look at the jobs of a queue without taking them.

They come in the order in which they would be taken; jobs that wait come after those that
could be taken now, the one due first before the others. Jobs that a transaction is taking
at this moment are still listed.

**queue**: name of the queue.
**scheduled**: true also lists the jobs that wait: scheduled, backing off or leased.
**count**: list this many at most; by default all of them, which is a lot for a long queue.

Returns one row for each job: what `queue_get` returns, and `ready_at`, the time a waiting
job comes due, null for a job that is ready.

Errors: 22023 for a bad name or a count below 1.

    select id, data, ready_at from queue_list('apples', scheduled => true, count => 10);
$$;

revoke all on function queue_list from public;

-- functions/queue_listen.sql
create or replace function queue_listen(
    queue text
)
returns text
language plpgsql
volatile
security definer
set search_path from current
as $$
declare
    v_channel text := queue_channel(queue);
    -- Channels, each with the lock that is held for it and how often, and those that may still miss a notification.
    v_listening text := coalesce(current_setting('pgq_py.listening', true), '');
    v_unsettled text := coalesce(current_setting('pgq_py.unsettled', true), '');
    v_held text[] := regexp_match(v_listening, v_channel || ':([a-z]+)([0-9]+)');
    v_lock text := nullif(v_held[1], 'none');
    v_count integer := case when v_lock is null then 1 else v_held[2]::integer + 1 end;
begin
    execute format('listen %I', v_channel);
    -- The lock is taken even if it should be there: the setting comes back with a rollback of queue_unlisten,
    -- the lock does not.
    v_lock := coalesce(v_lock, case when regexp_count(v_listening, ':') < 16 then 'one' else 'many' end);
    -- A putter that looks whether we sleep has the lock for some microseconds. One who keeps it
    -- is a stranger, and makes us poll.
    for v_try in 1 .. 20 loop
        if v_lock = 'one' then
            exit when pg_try_advisory_lock_shared(_queue_key(queue));
        else
            exit when pg_try_advisory_lock_shared(_queue_class(), 64);
        end if;
        if v_try = 20 then
            v_lock := 'none';
            v_count := 0;
        end if;
        perform pg_sleep(0.001);
    end loop;
    v_listening := regexp_replace(v_listening, ' ?' || v_channel || ':[a-z0-9]+', '');
    v_unsettled := regexp_replace(v_unsettled, ' ?' || v_channel || ':[0-9]*', '');
    perform set_config('pgq_py.listening', format('%s %s:%s%s', v_listening, v_channel, v_lock, v_count), false);
    perform set_config('pgq_py.unsettled', format('%s %s:', v_unsettled, v_channel), false);
    return v_channel;
end
$$;

comment on function queue_listen is $$
Listen for jobs of a queue: from now on whoever puts one notifies this session.

Putting notifies nobody unless a session listens in this way; a bare LISTEN is not enough. So
waiting for a job without a gap goes in this order: `queue_listen` (committed), then again and
again `queue_wait`, `queue_get`, and when that returned nothing, sleep until a notification or for
as long as `queue_wait` said, whichever comes first, but no longer than a few seconds.

The session keeps an advisory lock until `queue_unlisten`, DISCARD ALL or its end. Calling it again while it
listens does no harm. Locks are not rolled back: call this and `queue_unlisten` in no transaction.

**queue**: name of the queue.

Returns the channel on which the notifications come, see `queue_channel`.

Errors: 22023 for a bad name; 0A000 in a standby.

    select queue_listen('apples');
$$;

revoke all on function queue_listen from public;

-- functions/queue_maintain.sql
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

-- functions/queue_metrics.sql
create or replace function queue_metrics()
returns table (
    queue text,
    ready bigint,
    scheduled bigint,
    retrying bigint,
    leased bigint,
    dead bigint,
    paused integer,
    oldest_ready_seconds float8,
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
as $$
begin
    -- Which queues the caller may observe is found there.
    return query
    select
        s.name,
        s.ready,
        s.scheduled,
        s.retrying,
        s.leased,
        s.dead,
        s.paused::integer,
        coalesce(greatest(extract(epoch from clock_timestamp() - s.oldest_ready_at), 0), 0)::float8,
        s.put,
        s.taken,
        s.completed,
        s.failed,
        s.died
    from queue_stats() s;
end
$$;

comment on function queue_metrics is $$
`queue_stats` of all queues as a monitoring system takes it: numbers only, none of them null. The
time grows with the number of queues, not of jobs.

Returns one row for each **queue** that has jobs, dead jobs, settings or totals, and that the
caller may observe, sorted by name.

Gauges, which are as they are now: **ready**, **scheduled**, **retrying**, **leased** and **dead**, numbers
of jobs; **paused**, 1 or 0; **oldest_ready_seconds**, for how long the job that has waited longest
could have been taken, 0 if none can. With more than 1,000 jobs waiting, ready to leased are
estimates whose sum is exact: see `queue_stats`.

Counters, which only grow: **put**, **taken**, **completed**, **failed** and **died**. They are kept
by the database, so whoever reads them agrees with all others, whatever was restarted in
between. They are exact, count what is committed, and begin at zero again after `queue_drop` only:
`queue_clear`, `queue_cancel`, `queue_redrive` and `queue_dead_delete` leave them as they are.

Errors: none of its own.

    select queue, ready, oldest_ready_seconds, died from queue_metrics();
$$;

revoke all on function queue_metrics from public;

-- functions/queue_pause.sql
create or replace function queue_pause(
    queue text
)
returns boolean
language plpgsql
volatile
security definer
set search_path from current
as $$
#variable_conflict use_column
begin
    if octet_length(queue_pause.queue) between 1 and 255 is not true then
        perform _queue_refuse_name(queue_pause.queue);
    end if;
    if session_user <> current_user
        or current_setting('session_authorization') = ''
        or current_setting('role') <> 'none'
    then
        perform _queue_allow(queue_pause.queue, 'manage');
    end if;
    insert into queue_setting as s (queue, paused) values (queue_pause.queue, true)
    on conflict (queue) do update set paused = true where not s.paused;
    return found;
end
$$;

comment on function queue_pause is $$
Pause a queue: puts go on, but nothing can be taken until `queue_resume`.

Takes effect for takers that begin after the caller's transaction has committed. Jobs that
were taken before are not touched.

**queue**: name of the queue.

Returns true if the queue was not paused before.

Errors: 22023 for a bad name.

    select queue_pause('apples');
$$;

revoke all on function queue_pause from public;

-- functions/queue_progress.sql
create or replace function queue_progress(
    queue text,
    id bigint,
    receipt uuid,
    progress bigint default null,
    lease interval default null
)
returns boolean
language plpgsql
volatile
security definer
set search_path from current
set enable_seqscan = off
as $$
#variable_conflict use_column
declare
    v_now timestamptz;
    v_until timestamptz;
    v_ready_at timestamptz;
begin
    if octet_length(queue_progress.queue) between 1 and 255 is not true then
        perform _queue_refuse_name(queue_progress.queue);
    end if;
    if session_user <> current_user
        or current_setting('session_authorization') = ''
        or current_setting('role') <> 'none'
    then
        perform _queue_allow(queue_progress.queue, 'get');
    end if;
    if not queue_progress.lease between interval '1 microsecond' and interval '10 years' then
        perform _queue_refuse_lease(queue_progress.lease);
    end if;
    -- Twice, if somebody else had the row for so long that the first time has passed. No more: where each update takes
    -- that long (compiled anew each time, with jit_above_cost = 0) it would never end.
    for v_try in 1 .. 2 loop
        v_now := clock_timestamp();
        v_until := v_now + coalesce(
            queue_progress.lease,
            (select s.lease_for from queue_setting s where s.queue = queue_progress.queue),
            '5 minutes'
        );
        update queue_job j
        set progress_count = coalesce(queue_progress.progress, j.progress_count),
            lease_until = case when queue_progress.lease is null then greatest(j.lease_until, v_until) else v_until end,
            -- Indexed, so it moves as seldom as can be: back to a lease made shorter, and on when
            -- it has passed, unless somebody who came by has done that.
            ready_at = case
                when v_until < j.ready_at and queue_progress.lease is not null then v_until
                when j.ready_at <= v_now then v_until
                else j.ready_at
            end
        where j.queue = queue_progress.queue
            and j.id = queue_progress.id
            and j.receipt = queue_progress.receipt
            and j.lease_until > v_now
        returning j.ready_at into v_ready_at;
        if not found then
            return false;
        end if;
        exit when clock_timestamp() < v_now + interval '50 milliseconds';
    end loop;
    if queue_progress.lease is not null and v_ready_at = v_until then
        -- It may end earlier than sleepers reckon with.
        perform _queue_wake(queue_progress.queue);
    end if;
    return true;
end
$$;

comment on function queue_progress is $$
Extend a lease, and note how far the work is.

Costs little (one row is changed, as a rule no index), so call it well before the lease runs
out, at a third of it for example.

**queue**, **id**, **receipt**: as `queue_lease` gave them.
**progress**: any number, kept as `progress_count`; null leaves it as it is.
**lease**: the lease ends this long from now. By default as the queue says
(`queue_create`), or 5 minutes, and never earlier than it would have.

Returns false if the lease is no longer good: stop working, somebody else may have the job.

Errors: 22023 for a bad name or a lease that is not above zero; 22008 for one of more
than 10 years.

    select queue_progress('apples', 42, '3d3a1ad4-2a1f-4ba1-9e13-5a3fcb8b2fd0', 70);
$$;

revoke all on function queue_progress from public;

-- functions/queue_progress_many.sql
create or replace function queue_progress_many(
    queue text,
    ids bigint[],
    receipts uuid[],
    lease interval default null
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
    v_job record;
begin
    if octet_length(queue_progress_many.queue) between 1 and 255 is not true then
        perform _queue_refuse_name(queue_progress_many.queue);
    end if;
    if session_user <> current_user
        or current_setting('session_authorization') = ''
        or current_setting('role') <> 'none'
    then
        perform _queue_allow(queue_progress_many.queue, 'get');
    end if;
    if cardinality(ids) <> cardinality(receipts) is not false then
        perform _queue_refuse_sizes('receipts', cardinality(receipts), cardinality(ids));
    end if;
    if not queue_progress_many.lease between interval '1 microsecond' and interval '10 years' then
        perform _queue_refuse_lease(queue_progress_many.lease);
    end if;
    -- The row that somebody else has locked is passed over: whoever waits for one lets the other leases run out.
    for v_job in
        select u.id, u.receipt from unnest(ids, receipts) as u (id, receipt)
    loop
        id := v_job.id;
        done := exists (
            select
            from queue_job j
            where j.queue = queue_progress_many.queue
                and j.id = v_job.id
                and j.receipt = v_job.receipt
                and j.lease_until > clock_timestamp()
        );
        if done then
            perform
            from queue_job j
            where j.queue = queue_progress_many.queue and j.id = v_job.id
            for no key update skip locked;
            done := case
                when found then queue_progress(
                    queue_progress_many.queue, v_job.id, v_job.receipt, lease => queue_progress_many.lease
                )
            end;
        end if;
        return next;
    end loop;
end
$$;

comment on function queue_progress_many is $$
As `queue_progress`, for many jobs at once: the heartbeat of a consumer.

**queue**: name of the queue; **ids**, **receipts**: the jobs, as `queue_lease` gave them.
**lease**: as there, for all of them.

Returns a row for each job, in the order given: **done** is true where the lease was extended, false where it is no
longer good, and null where a transaction of somebody else's has locked the job: for that it does not wait, ask again
soon. Only where it is true something was changed.

Errors: those of `queue_progress`; 2202E where there are not as many receipts as ids.

    select id, done
    from queue_progress_many('apples', '{42, 43}', array['3d3a1ad4-2a1f-4ba1-9e13-5a3fcb8b2fd0', null]::uuid[]);
$$;

revoke all on function queue_progress_many from public;

-- functions/queue_put.sql
create or replace function queue_put(
    queue text,
    data jsonb default null,
    schedule_at timestamptz default null,
    expected_at timestamptz default null,
    priority integer default 0,
    dedupe_key text default null,
    headers jsonb default null,
    max_attempts integer default null,
    schedule_in interval default null,
    expected_in interval default null,
    data_text text default null,
    data_bytes bytea default null,
    notify boolean default true
)
returns bigint
language plpgsql
volatile
security definer
set search_path from current
as $$
#variable_conflict use_column
declare
    v_now timestamptz := clock_timestamp();
    v_schedule_at timestamptz;
    v_expected_at timestamptz := 'infinity';
    v_bytes integer;
    v_id bigint;
begin
    -- One expression for all that is wrong or rare, and no functions in it where an operator does:
    -- to set up an expression costs more than to evaluate it.
    if
        octet_length(queue_put.queue) between 1 and 255
        and (
            session_user = current_user
            and current_setting('session_authorization') <> ''
            and current_setting('role') = 'none'
            or _queue_may(queue_put.queue, 'put')
        )
        and (queue_put.data is not null) <> (queue_put.data_text is not null or queue_put.data_bytes is not null)
        and (queue_put.data_text is null or queue_put.data_bytes is null)
        and queue_put.dedupe_key is null
        and queue_put.priority > -2147483648
        and queue_put.max_attempts is null
        and _queue_is_large(queue_put.data) is not true
    then
        if queue_put.data is null or queue_put.headers is not null
            or queue_put.schedule_at is not null or queue_put.schedule_in is not null
            or queue_put.expected_at is not null or queue_put.expected_in is not null
        then
            v_bytes := octet_length(queue_put.headers::text);
            if v_bytes > 65536 then
                perform _queue_refuse_length('headers', v_bytes, 65536);
            end if;
            v_bytes := coalesce(octet_length(queue_put.data_bytes), octet_length(queue_put.data_text));
            if v_bytes > 268435455 then
                perform _queue_refuse_data(v_bytes);
            end if;
            if num_nonnulls(
                queue_put.schedule_at, queue_put.schedule_in, queue_put.expected_at, queue_put.expected_in
            ) > 0 then
                v_schedule_at := _queue_time('schedule', queue_put.schedule_at, queue_put.schedule_in, v_now);
                v_expected_at := coalesce(
                    _queue_time('expected', queue_put.expected_at, queue_put.expected_in, v_now), 'infinity'
                );
            end if;
        end if;
        -- Not with RETURNING, which makes a row of all columns, nor with ON CONFLICT, which
        -- writes each row in two steps: together they would be a third of this.
        insert into queue_job (
            queue, enqueued_at, ready_at, schedule_at, expected_at, rank, headers, data, data_text, data_bytes
        )
        select
            queue_put.queue,
            v_now,
            case when v_schedule_at > v_now then v_schedule_at end,
            v_schedule_at,
            v_expected_at,
            - queue_put.priority,
            queue_put.headers,
            queue_put.data,
            queue_put.data_text,
            queue_put.data_bytes
        where not exists (
            select
            from queue_setting s
            where s.queue = queue_put.queue and num_nonnulls(s.max_bytes, s.max_depth) > 0
        );
        if found then
            v_id := currval('queue_job_id_seq');
            insert into queue_tally (queue, put) values (queue_put.queue, 1);
            if random() < 0.005 then
                perform _queue_fold(queue_put.queue);
            end if;
            if queue_put.notify and not _queue_nobody_sleeps(queue_put.queue) then
                perform pg_notify(_queue_channel(queue_put.queue), '');
            end if;
            return v_id;
        end if;
    end if;

    -- A key, a limit, large JSON, or a mistake: as a batch of one.
    return (
        select p.id
        from queue_put_many(
            queue_put.queue,
            case
                when num_nonnulls(queue_put.data, queue_put.data_text, queue_put.data_bytes) <> 1
                    or queue_put.data is not null
                then array[queue_put.data]
            end,
            queue_put.schedule_at,
            queue_put.expected_at,
            queue_put.priority,
            array[queue_put.dedupe_key],
            queue_put.headers,
            queue_put.max_attempts,
            queue_put.schedule_in,
            queue_put.expected_in,
            case when queue_put.data_text is not null then array[queue_put.data_text] end,
            case when queue_put.data_bytes is not null then array[queue_put.data_bytes] end,
            queue_put.notify
        ) p
    );
end
$$;

comment on function queue_put is $$
Put one job into a queue.

The job is there for others when the caller's transaction commits. The queue needs no
making.

**queue**: name of the queue, 1 to 255 bytes, any character but NUL.
**data**: the job's data as JSON; null is JSON's null.
**schedule_at**: the job can't be taken before this time. A time that has passed means now.
**expected_at**: the time by which the job should be worked on; of two jobs with the same
priority the one expected earlier comes first, and one without an expectation last.
**priority**: higher comes first; 0 by default, negative is fine.
**dedupe_key**: while a job with this key is in the queue, another put with the same key
stores nothing and returns the id of the job that is there (`queue_put_many` also tells which
it was). A put waits for the end of a transaction that is putting or taking the job with its
key.
**headers**: anything for the consumer that is not the data, a trace context for example.
**max_attempts**: how often the job may be tried before it goes to the dead; by default as
the queue says.
**schedule_in**, **expected_in**: the same two times as an interval from now, by the
server's clock; a negative interval means now.
**data_text**, **data_bytes**: text or bytes instead of JSON, stored as they are.
**notify**: false leaves sleeping consumers asleep until they poll. Needed in a transaction
that is to be prepared (two-phase commit), which can't notify.

Returns the job's id.

Errors: 22023 for a bad name, max_attempts below 1, a dedupe_key of more than 1,024 bytes, headers of
more than 65,536 or arguments that exclude each other; 22008 for an infinite or impossible time, or one
after the year 9999; 22003 for the priority -2147483648, which has no opposite; 22P02, 22P05 or
54001 for text that is not JSON, is not Unicode or is nested too deep; 40001 where the key
is being put by another transaction and the isolation level is above READ COMMITTED; 40P01
where two transactions that hold a key each wait for the other's; QU001 where the queue is
full, QU002 where the data are too large for it (see `queue_create`), text or bytes of more
than 268,435,455 bytes, or JSON of more than 536,870,911 as text.

    select queue_put('apples', '{"kind": "Cox"}');
    select queue_put('apples', '{"kind": "Cox"}', schedule_in => '5m', priority => 10);
$$;

revoke all on function queue_put from public;

-- functions/queue_put_many.sql
create or replace function queue_put_many(
    queue text,
    data jsonb[] default null,
    schedule_at timestamptz default null,
    expected_at timestamptz default null,
    priority integer default 0,
    dedupe_keys text[] default null,
    headers jsonb default null,
    max_attempts integer default null,
    schedule_in interval default null,
    expected_in interval default null,
    data_text text[] default null,
    data_bytes bytea[] default null,
    notify boolean default true
)
returns table (
    id bigint,
    is_new boolean
)
language plpgsql
volatile
security definer
set search_path from current
as $$
#variable_conflict use_column
declare
    v_now timestamptz := clock_timestamp();
    v_schedule_at timestamptz;
    v_expected_at timestamptz := 'infinity';
    v_size integer := coalesce(cardinality(data), cardinality(data_text), cardinality(data_bytes), 0);
    v_new_ids bigint[];
    v_ids bigint[];
    v_inserted bigint := 0;
    v_bytes integer;
    v_nulls bigint;
begin
    if octet_length(queue_put_many.queue) between 1 and 255 is not true then
        perform _queue_refuse_name(queue_put_many.queue);
    end if;
    if session_user <> current_user
        or current_setting('session_authorization') = ''
        or current_setting('role') <> 'none'
    then
        perform _queue_allow(queue_put_many.queue, 'put');
    end if;
    if num_nonnulls(queue_put_many.data, queue_put_many.data_text, queue_put_many.data_bytes) > 1 then
        raise exception using
            errcode = 'invalid_parameter_value',
            message = 'more than one of data, data_text and data_bytes is given',
            hint = 'A job holds one of the three; put jobs of different kinds in different calls.';
    end if;
    if cardinality(queue_put_many.dedupe_keys) <> v_size then
        raise exception using
            errcode = 'array_subscript_error',
            message = format('%s dedupe_keys are given for %s jobs', cardinality(queue_put_many.dedupe_keys), v_size),
            hint = 'Give one key for each job; a null key is no key.';
    end if;
    if queue_put_many.max_attempts < 1 then
        raise exception using
            errcode = 'invalid_parameter_value',
            message = format('max_attempts is %s', queue_put_many.max_attempts),
            hint = 'A job is tried at least once; null is as the queue says.';
    end if;
    if v_size > 100000 then
        perform _queue_refuse_count(v_size);
    end if;
    if queue_put_many.priority = -2147483648 then
        raise exception using
            errcode = 'numeric_value_out_of_range',
            message = 'the priority is -2147483648',
            hint = 'The lowest priority is -2147483647: each must have its opposite, by which jobs are sorted.';
    end if;
    v_bytes := octet_length(queue_put_many.headers::text);
    if v_bytes > 65536 then
        perform _queue_refuse_length('headers', v_bytes, 65536);
    end if;
    v_bytes := (select max(octet_length(k)) from unnest(queue_put_many.dedupe_keys) as k);
    if v_bytes > 1024 then
        perform _queue_refuse_length('dedupe_key', v_bytes, 1024);
    end if;
    -- Not by array_position, which an array of more dimensions than one is an error for.
    select
        max(coalesce(octet_length(u.data_text), octet_length(u.data_bytes))),
        count(*) - count(u.data_text) - count(u.data_bytes)
    into v_bytes, v_nulls
    from unnest(queue_put_many.data_text, queue_put_many.data_bytes) as u (data_text, data_bytes);
    if v_nulls > 0 then
        raise exception using
            errcode = 'null_value_not_allowed',
            message = 'an element of data_text or data_bytes is null',
            hint = 'Only JSON has a null to store; leave the element out, or put it as JSON.';
    end if;
    if v_bytes > 268435455 then
        perform _queue_refuse_data(v_bytes);
    end if;
    perform _queue_check_json(d) from unnest(queue_put_many.data) as d where _queue_is_large(d);
    if queue_put_many.schedule_at is not null or queue_put_many.schedule_in is not null then
        v_schedule_at := _queue_time('schedule', queue_put_many.schedule_at, queue_put_many.schedule_in, v_now);
    end if;
    if queue_put_many.expected_at is not null or queue_put_many.expected_in is not null then
        v_expected_at := _queue_time('expected', queue_put_many.expected_at, queue_put_many.expected_in, v_now);
    end if;

    if v_size = 0 then
        return;
    end if;
    if exists (
        select
        from queue_setting s
        where s.queue = queue_put_many.queue and num_nonnulls(s.max_bytes, s.max_depth) > 0
    ) then
        perform _queue_check_limits(
            queue_put_many.queue,
            (
                select max(coalesce(
                    octet_length(u.data::text),
                    octet_length(u.data_text),
                    octet_length(u.data_bytes),
                    octet_length('null')
                ))
                from unnest(queue_put_many.data, queue_put_many.data_text, queue_put_many.data_bytes)
                    as u (data, data_text, data_bytes)
            ),
            case
                when queue_put_many.dedupe_keys is null then v_size
                else (
                    select count(distinct k) filter (where _queue_find(queue_put_many.queue, k) is null)
                        + count(*) filter (where k is null)
                    from unnest(queue_put_many.dedupe_keys) as k
                )
            end
        );
    end if;

    if queue_put_many.dedupe_keys is null then
        -- Ids are given out in the order in which the rows arrive at the insert.
        return query
        insert into queue_job (
            queue, enqueued_at, ready_at, schedule_at, expected_at, rank,
            headers, max_attempts, data, data_text, data_bytes
        )
        select
            queue_put_many.queue,
            v_now,
            case when v_schedule_at > v_now then v_schedule_at end,
            v_schedule_at,
            v_expected_at,
            - coalesce(queue_put_many.priority, 0),
            queue_put_many.headers,
            queue_put_many.max_attempts,
            case when queue_put_many.data is not null then coalesce(u.data, 'null') end,
            u.data_text,
            u.data_bytes
        from unnest(queue_put_many.data, queue_put_many.data_text, queue_put_many.data_bytes)
            with ordinality as u (data, data_text, data_bytes, n)
        order by u.n
        returning id, true;
        v_inserted := v_size;
    else
        v_new_ids := array(
            select nextval(pg_get_serial_sequence('queue_job', 'id')) from generate_series(1, v_size)
        );
        loop
            if v_size = 1 then
                v_ids := _queue_put_keys(
                    queue_put_many.queue, v_new_ids, v_now, v_schedule_at, v_expected_at, queue_put_many.priority,
                    queue_put_many.dedupe_keys, queue_put_many.headers, queue_put_many.max_attempts,
                    queue_put_many.data, queue_put_many.data_text, queue_put_many.data_bytes
                );
                exit when v_ids[1] is not null;
            else
                -- A key that was there may be gone by the time its id is looked up. To put it then
                -- may mean to wait, and who waits for a key must not have a later one: begin anew.
                -- Only many keys are worth a subtransaction.
                begin
                    v_ids := _queue_put_keys(
                        queue_put_many.queue, v_new_ids, v_now, v_schedule_at, v_expected_at, queue_put_many.priority,
                        queue_put_many.dedupe_keys, queue_put_many.headers, queue_put_many.max_attempts,
                        queue_put_many.data, queue_put_many.data_text, queue_put_many.data_bytes
                    );
                    exit when array_position(v_ids, null) is null;
                    raise exception using errcode = 'QU999', hint = 'It is caught below.';
                exception
                    when sqlstate 'QU999' then null;
                end;
            end if;
        end loop;
        v_inserted := (
            select count(*) from unnest(v_ids, v_new_ids) as u (id, new_id) where u.id = u.new_id
        );
        return query
        select u.id, u.id = u.new_id
        from unnest(v_ids, v_new_ids) with ordinality as u (id, new_id, n)
        order by u.n;
    end if;

    if v_inserted > 0 then
        insert into queue_tally (queue, put) values (queue_put_many.queue, v_inserted);
        if random() < 0.005 then
            perform _queue_fold(queue_put_many.queue);
        end if;
    end if;
    if queue_put_many.notify and v_inserted > 0 then
        perform _queue_wake(queue_put_many.queue);
    end if;
end
$$;

comment on function queue_put_many is $$
Put many jobs into a queue at once, in one statement: all of them or none.

**queue**: name of the queue.
**data**: one JSON value for each job; a null element is JSON's null.
**dedupe_keys**: one key for each job, as in `queue_put`; a null element is no key.
**data_text**, **data_bytes**: text or bytes instead of JSON; no element may be null.
An array of more dimensions than one is a list of its elements.

The other arguments are those of `queue_put` and hold for every job of the batch.

Returns a row for each job in the order of the array: its **id**, and **is_new**, false where
its key is already in the queue, or twice in the batch: then it is the id of the job that is
there.

Errors: those of `queue_put`; 22023 for more than 100,000 jobs; 2202E where the number of keys
is not the number of jobs; 22004 for a null text.

    select id, is_new from queue_put_many('apples', array['{"kind": "Cox"}', '{"kind": "Gala"}']::jsonb[]);
$$;

revoke all on function queue_put_many from public;

-- functions/queue_redrive.sql
create or replace function queue_redrive(
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
    if octet_length(queue_redrive.queue) between 1 and 255 is not true then
        perform _queue_refuse_name(queue_redrive.queue);
    end if;
    if session_user <> current_user
        or current_setting('session_authorization') = ''
        or current_setting('role') <> 'none'
    then
        perform _queue_allow(queue_redrive.queue, 'manage');
    end if;
    if queue_redrive.count < 1 then
        perform _queue_refuse_count(queue_redrive.count);
    end if;
    -- In the order of the keys, as queue_put_many: no deadlock with batches that share them. What is
    -- still in the queue (it was buried there) can't go back, and is not locked: whoever has it waits
    -- for its dead row, in _queue_fail, and may have a key that is waited for here. Not as NOT EXISTS:
    -- planned while the queue was empty, that would read all of it for each.
    with chosen as (
        select d.*
        from queue_dead d
        where d.queue = queue_redrive.queue
            and (queue_redrive.ids is null or d.id = any (queue_redrive.ids))
            and (queue_redrive.reason_like is null or d.reason like queue_redrive.reason_like)
            and (queue_redrive.died_after is null or d.died_at >= queue_redrive.died_after)
            and (queue_redrive.died_before is null or d.died_at < queue_redrive.died_before)
            and (select j.id from queue_job j where j.queue = queue_redrive.queue and j.id = d.id) is null
        order by d.died_at, d.id
        limit queue_redrive.count
        for update skip locked
    ), back as (
        insert into queue_job (
            id, queue, enqueued_at, schedule_at, expected_at, rank, max_attempts, last_error, progress_count,
            dedupe_key, headers, history, data, data_text, data_bytes
        )
        overriding system value
        select
            c.id, c.queue, coalesce(c.enqueued_at, c.died_at), c.schedule_at, coalesce(c.expected_at, 'infinity'),
            - c.priority, c.max_attempts, c.last_error, c.progress_count, c.dedupe_key, c.headers, c.history, c.data,
            c.data_text, c.data_bytes
        from chosen c
        order by c.dedupe_key collate "C", c.died_at, c.id
        -- Of the key.
        on conflict do nothing
        returning id
    )
    delete from queue_dead d
    using back b
    where d.queue = queue_redrive.queue and d.id = b.id;
    get diagnostics v_rows = row_count;
    if v_rows > 0 then
        insert into queue_tally (queue, moved, dead) values (queue_redrive.queue, v_rows, - v_rows);
        perform _queue_wake(queue_redrive.queue);
    end if;
    return v_rows;
end
$$;

comment on function queue_redrive is $$
Put dead jobs back into the queue they came from: all of them, or those that the arguments
choose. They keep their ids and their history, are ready at once, and may be tried as often
as new ones.

**queue**: name of the queue.
**ids**: these jobs only.
**reason_like**: only those whose reason matches this pattern of LIKE, `'%timeout%'` for example.
**died_after**, **died_before**: only those that died at or after, or before, these times.
**count**: this many at most, those that died first.

A queue's `max_depth` does not keep them out.

Returns how many are back. One whose dedupe_key another job in the queue has by now stays
among the dead, and so do those that another transaction is redriving or removing at this
moment.

Errors: 22023 for a bad name or a count below 1.

    select queue_redrive('apples', reason_like => '%timeout%');
$$;

revoke all on function queue_redrive from public;

-- functions/queue_release.sql
create or replace function queue_release(
    queue text,
    id bigint,
    receipt uuid
)
returns boolean
language plpgsql
volatile
security definer
set search_path from current
set enable_seqscan = off
as $$
#variable_conflict use_column
declare
    v_now timestamptz := clock_timestamp();
begin
    if octet_length(queue_release.queue) between 1 and 255 is not true then
        perform _queue_refuse_name(queue_release.queue);
    end if;
    if session_user <> current_user
        or current_setting('session_authorization') = ''
        or current_setting('role') <> 'none'
    then
        perform _queue_allow(queue_release.queue, 'get');
    end if;
    update queue_job j
    set ready_at = null, lease_until = null, receipt = null, consumer = null, attempts = j.attempts - 1
    where j.queue = queue_release.queue
        and j.id = queue_release.id
        and j.receipt = queue_release.receipt
        and j.lease_until > v_now;
    if not found then
        return false;
    end if;
    perform _queue_wake(queue_release.queue);
    return true;
end
$$;

comment on function queue_release is $$
Return a leased job to the queue, at once and as if it had not been taken: the attempt does
not count. For a consumer that is told to stop.

**queue**, **id**, **receipt**: as `queue_lease` gave them.

Returns false if the lease is no longer good. Then nothing was changed.

Errors: 22023 for a bad name.

    select queue_release('apples', 42, '3d3a1ad4-2a1f-4ba1-9e13-5a3fcb8b2fd0');
$$;

revoke all on function queue_release from public;

-- functions/queue_release_many.sql
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

-- functions/queue_resume.sql
create or replace function queue_resume(
    queue text
)
returns boolean
language plpgsql
volatile
security definer
set search_path from current
as $$
#variable_conflict use_column
begin
    if octet_length(queue_resume.queue) between 1 and 255 is not true then
        perform _queue_refuse_name(queue_resume.queue);
    end if;
    if session_user <> current_user
        or current_setting('session_authorization') = ''
        or current_setting('role') <> 'none'
    then
        perform _queue_allow(queue_resume.queue, 'manage');
    end if;
    update queue_setting s set paused = false where s.queue = queue_resume.queue and s.paused;
    if not found then
        return false;
    end if;
    perform _queue_wake(queue_resume.queue);
    return true;
end
$$;

comment on function queue_resume is $$
End the pause of a queue and wake the consumers that sleep on it.

**queue**: name of the queue.

Returns true if the queue was paused.

Errors: 22023 for a bad name.

    select queue_resume('apples');
$$;

revoke all on function queue_resume from public;

-- functions/queue_revoke.sql
create or replace function queue_revoke(
    queue text,
    role text,
    privilege text default null
)
returns boolean
language plpgsql
volatile
security definer
set search_path from current
as $$
begin
    if octet_length(queue_revoke.queue) between 1 and 255 is not true then
        perform _queue_refuse_name(queue_revoke.queue);
    end if;
    if session_user <> current_user
        or current_setting('session_authorization') = ''
        or current_setting('role') <> 'none'
    then
        perform _queue_allow(queue_revoke.queue, 'grant');
    end if;
    return _queue_take(queue_revoke.queue, queue_revoke.role, queue_revoke.privilege);
end
$$;

comment on function queue_revoke is $$
Take a right on one queue from a role. A right on all queues stays, and what the role may as a
member of another: then a warning says so.

**queue**, **role**: as in `queue_grant`.
**privilege**: as there; by default all that the role was given on this queue.

With the last right that needs it the role loses EXECUTE on a function, too, and so does whoever has
that from the role, if somebody let it grant that on. USAGE on the schema stays: who gave it can't
be told. It holds for calls that begin after the caller's transaction has committed; a transaction
above READ COMMITTED goes on with the rights that there were when it began.

Returns true if there was a right to take.

Errors: 22023 for a bad name or privilege; 42704 for a role that there is not; 42501 if the caller
is not the owner.

    select queue_revoke('apples', 'web', 'put');
$$;

revoke all on function queue_revoke from public;

-- functions/queue_revoke_all.sql
create or replace function queue_revoke_all(
    role text,
    privilege text default null
)
returns boolean
language plpgsql
volatile
security definer
set search_path from current
as $$
begin
    if session_user <> current_user
        or current_setting('session_authorization') = ''
        or current_setting('role') <> 'none'
    then
        perform _queue_allow('', 'grant');
    end if;
    return _queue_take(null, queue_revoke_all.role, queue_revoke_all.privilege);
end
$$;

comment on function queue_revoke_all is $$
Take from a role what it was given: on all queues, and on each. Needed before the role can be
dropped, and so is `revoke usage on schema`, if `queue_grant` gave it that: in a schema of its own.

**role**: as in `queue_grant`.
**privilege**: as there; by default all of them.

Returns true if there was a right to take.

Errors: those of `queue_revoke`.

    select queue_revoke_all('web');
$$;

revoke all on function queue_revoke_all from public;

-- functions/queue_rights.sql
create or replace function queue_rights()
returns table (
    queue text,
    role text,
    privilege text,
    granted_at timestamptz
)
language plpgsql
volatile
security definer
set search_path from current
as $$
#variable_conflict use_column
declare
    -- Who may give rights sees them; and it is refused in maintenance, as the others (see _queue_may).
    v_sees_all boolean := _queue_may('', 'grant');
begin
    return query
    select nullif(r.queue, ''), pg_get_userbyid(r.role)::text, r.privilege, r.granted_at
    from queue_right r
    where v_sees_all or pg_has_role(_queue_caller(), r.role, 'usage')
    order by r.queue, 2, r.privilege;
end
$$;

comment on function queue_rights is $$
The rights that were given: all of them to the owner, to others what they have themselves or as
members of a role.

Returns one row for each right: **queue**, null for all queues; **role**; **privilege**, as in
`queue_grant`; and **granted_at**, since when.

    select * from queue_rights() where queue = 'apples' or queue is null;
$$;

revoke all on function queue_rights from public;

-- functions/queue_settings.sql
create or replace function queue_settings(
    queue text
)
returns table (
    paused boolean,
    max_attempts integer,
    lease_for interval,
    retry_in interval,
    max_depth bigint,
    max_bytes integer,
    keep_dead_for interval
)
language plpgsql
volatile
security definer
set search_path from current
set enable_seqscan = off
as $$
#variable_conflict use_column
begin
    if octet_length(queue_settings.queue) between 1 and 255 is not true then
        perform _queue_refuse_name(queue_settings.queue);
    end if;
    if session_user <> current_user
        or current_setting('session_authorization') = ''
        or current_setting('role') <> 'none'
    then
        perform _queue_allow(queue_settings.queue, 'observe', 'manage');
    end if;
    return query
    select
        coalesce(s.paused, false),
        coalesce(s.max_attempts, 5),
        coalesce(s.lease_for, '5 minutes'),
        coalesce(s.retry_in, '10 seconds'),
        s.max_depth,
        s.max_bytes,
        s.keep_dead_for
    from (select) as always
    left join queue_setting s on s.queue = queue_settings.queue;
end
$$;

comment on function queue_settings is $$
The settings that hold for a queue, the defaults among them.

**queue**: name of the queue.

Returns one row: **paused**, and the settings as `queue_create` describes them; null is no
limit.

Errors: 22023 for a bad name.

    select * from queue_settings('apples');
$$;

revoke all on function queue_settings from public;

-- functions/queue_stats.sql
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

-- functions/queue_unlisten.sql
create or replace function queue_unlisten(
    queue text
)
returns void
language plpgsql
volatile
security definer
set search_path from current
as $$
declare
    v_channel text := queue_channel(queue);
    v_listening text := coalesce(current_setting('pgq_py.listening', true), '');
    v_unsettled text := coalesce(current_setting('pgq_py.unsettled', true), '');
    v_key bigint := _queue_key(queue);
    v_held text[];
    v_kind integer;
begin
    execute format('unlisten %I', v_channel);
    -- Nothing else is listened to, and all is settled. No more than that on a job's way to who was woken for it.
    if v_listening = ' ' || v_channel || ':one1' and v_unsettled = '' then
        perform pg_advisory_unlock_shared(v_key), set_config('pgq_py.listening', '', false);
        return;
    end if;
    v_held := regexp_match(v_listening, v_channel || ':([a-z]+)([0-9]+)');
    if v_held[1] = 'one' then
        for v_n in 1 .. v_held[2]::integer loop
            exit when not pg_advisory_unlock_shared(v_key);
        end loop;
    elsif v_held[1] = 'many' then
        for v_n in 1 .. v_held[2]::integer loop
            exit when not pg_advisory_unlock_shared(_queue_class(), 64);
        end loop;
    else
        -- A queue_listen that was interrupted or rolled back has left its lock.
        loop
            select l.objsubid
            into v_kind
            from pg_locks l
            where l.locktype = 'advisory'
                and l.pid = pg_backend_pid()
                and l.mode = 'ShareLock'
                and (l.classid::bigint << 32 | l.objid::bigint, l.objsubid) in (
                    (v_key, 1), (_queue_class()::bigint << 32 | 64, 2)
                )
                and (l.objsubid = 1 or position(':many' in v_listening) = 0)
            limit 1;
            exit when not found;
            if v_kind = 1 then
                perform pg_advisory_unlock_shared(v_key);
            else
                perform pg_advisory_unlock_shared(_queue_class(), 64);
            end if;
        end loop;
    end if;
    perform set_config('pgq_py.listening', regexp_replace(v_listening, ' ?' || v_channel || ':[a-z0-9]+', ''), false);
    perform set_config(
        'pgq_py.unsettled',
        regexp_replace(v_unsettled, ' ?' || v_channel || ':[0-9]*', ''),
        false
    );
end
$$;

comment on function queue_unlisten is $$
The end of `queue_listen`: this session is not notified any more.

**queue**: name of the queue.

Errors: 22023 for a bad name.

    select queue_unlisten('apples');
$$;

revoke all on function queue_unlisten from public;

-- functions/queue_update.sql
create or replace function queue_update(
    queue text,
    id bigint,
    data jsonb default null,
    data_text text default null,
    data_bytes bytea default null,
    receipt uuid default null
)
returns boolean
language plpgsql
volatile
security definer
set search_path from current
set enable_seqscan = off
as $$
#variable_conflict use_column
declare
    v_now timestamptz := clock_timestamp();
    v_bytes integer;
begin
    if octet_length(queue_update.queue) between 1 and 255 is not true then
        perform _queue_refuse_name(queue_update.queue);
    end if;
    if session_user <> current_user
        or current_setting('session_authorization') = ''
        or current_setting('role') <> 'none'
    then
        if queue_update.receipt is null then
            perform _queue_allow(queue_update.queue, 'manage');
        else
            perform _queue_allow(queue_update.queue, 'get', 'manage');
        end if;
    end if;
    if num_nonnulls(queue_update.data, queue_update.data_text, queue_update.data_bytes) > 1 then
        raise exception using
            errcode = 'invalid_parameter_value',
            message = 'more than one of data, data_text and data_bytes is given',
            hint = 'A job holds one of the three.';
    end if;
    if num_nonnulls(queue_update.data_text, queue_update.data_bytes) = 0 then
        queue_update.data := coalesce(queue_update.data, 'null');
    end if;
    v_bytes := coalesce(octet_length(queue_update.data_bytes), octet_length(queue_update.data_text));
    if v_bytes > 268435455 then
        perform _queue_refuse_data(v_bytes);
    end if;
    if _queue_is_large(queue_update.data) then
        perform _queue_check_json(queue_update.data);
    end if;
    if exists (select from queue_setting s where s.queue = queue_update.queue and s.max_bytes is not null) then
        perform _queue_check_limits(
            queue_update.queue,
            coalesce(
                octet_length(queue_update.data::text),
                octet_length(queue_update.data_text),
                octet_length(queue_update.data_bytes)
            ),
            0
        );
    end if;
    if queue_update.receipt is null then
        perform
        from queue_job j
        where j.queue = queue_update.queue and j.id = queue_update.id
        for update skip locked;
    else
        -- As a rule it is the consumer's own heartbeat that holds the row.
        perform
        from queue_job j
        where j.queue = queue_update.queue
            and j.id = queue_update.id
            and j.receipt = queue_update.receipt
            and j.lease_until > v_now
        for update;
    end if;
    if not found then
        return false;
    end if;
    update queue_job j
    set data = queue_update.data,
        data_text = queue_update.data_text,
        data_bytes = queue_update.data_bytes
    where j.queue = queue_update.queue and j.id = queue_update.id;
    return true;
end
$$;

comment on function queue_update is $$
Replace the data of a job that is in the queue, ready or waiting. Nothing else of it changes.

**queue**, **id**: the job.
**data**: the new data as JSON; or **data_text** or **data_bytes**, as in `queue_put`.
**receipt**: of a lease; then the data is replaced only while that lease is good.

Returns true if the data was replaced; false if there is no such job, the receipt is no
longer good, or, without a receipt, a transaction is taking it at this moment (the call does
not wait for that transaction's end).

Errors: 22023 for a bad name or more than one kind of data; 22P02, 22P05 or 54001 for text
that is not JSON, is not Unicode or is nested too deep; QU002 where the data are too large
for the queue (see `queue_create`), text or bytes of more than 268,435,455 bytes, or JSON of more
than 536,870,911 as text.

    select queue_update('apples', 42, '{"kind": "Gala"}');
$$;

revoke all on function queue_update from public;

-- functions/queue_version.sql
create or replace function queue_version()
returns text
language sql
stable
security definer
set search_path from current
as $$
    select '0001'
$$;

comment on function queue_version is $$
The version of the installed schema: the number that is at once the alembic revision and the
version of the extension.

Returns four digits.

    select queue_version();
$$;

revoke all on function queue_version from public;

-- functions/queue_wait.sql
create or replace function queue_wait(
    queue text
)
returns interval
language plpgsql
volatile
security definer
set search_path from current
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_sort = off
set jit = off
as $$
declare
    v_now timestamptz := clock_timestamp();
    v_unsettled text := current_setting('pgq_py.unsettled', true);
    v_before text[];
    v_again timestamptz;
    v_name text;
    v_head text[];
    v_due text[];
begin
    if octet_length(queue_wait.queue) between 1 and 255 is not true then
        perform _queue_refuse_name(queue_wait.queue);
    end if;
    if session_user <> current_user
        or current_setting('session_authorization') = ''
        or current_setting('role') <> 'none'
    then
        perform _queue_allow(queue_wait.queue, 'get', 'observe', 'manage');
    end if;
    -- Who put before this session began to listen, and has not committed, may not notify. None of them is left
    -- if nobody has the lock; or, where others have it all the time, if all transactions have ended that had a
    -- number when this session first looked. Those who look for sleepers have one, since they wrote before.
    if v_unsettled <> '' then
        v_before := regexp_match(v_unsettled, _queue_channel(queue) || ':([0-9]*)');
        if v_before is null then
            null;
        elsif position(_queue_channel(queue) || ':none' in current_setting('pgq_py.listening')) = 0
            and (
                pg_try_advisory_lock(_queue_class(), (hashtextextended(queue, 0) & 63)::integer)
                    and pg_advisory_unlock(_queue_class(), (hashtextextended(queue, 0) & 63)::integer)
                or pg_snapshot_xmin(pg_current_snapshot()) >= nullif(v_before[1], '')::xid8
            )
        then
            perform set_config(
                'pgq_py.unsettled',
                regexp_replace(v_unsettled, ' ?' || _queue_channel(queue) || ':[0-9]*', ''),
                false
            );
        else
            v_again := v_now + interval '20 ms';
            if v_before[1] = '' then
                perform set_config(
                    'pgq_py.unsettled',
                    regexp_replace(v_unsettled, _queue_channel(queue) || ':', E'\\&' || pg_current_xact_id()),
                    false
                );
            end if;
        end if;
    end if;
    if exists (select from queue_setting s where s.queue = queue_wait.queue and s.paused) then
        return v_again - v_now;
    end if;
    -- The session passes over some jobs until then: see _queue_claim and _queue_due.
    if current_setting('pgq_py.has_head', true) <> '' then
        v_name := 'pgq_py.head_' || to_hex(hashtextextended(queue, 'queue_job'::regclass::oid::bigint));
        v_head := string_to_array(current_setting(v_name, true), ' ');
        v_due := string_to_array(current_setting(replace(v_name, 'head', 'due'), true), ' ');
        if v_head[2]::float8 > 0.001 and to_timestamp(v_head[1]::float8) between v_now and v_now + interval '31 s' then
            v_again := least(v_again, to_timestamp(v_head[1]::float8));
        end if;
        if to_timestamp(v_due[1]::float8) between v_now and v_now + interval '31 s' then
            -- That may be in a millisecond, and so on for ever.
            v_again := least(v_again, greatest(to_timestamp(v_due[1]::float8), v_now + interval '100 ms'));
        end if;
    end if;
    return least(
        v_again,
        (
            select j.ready_at
            from queue_job j
            where j.queue = queue_wait.queue and j.ready_at is not null and j.ready_at > v_now
            order by j.ready_at
            limit 1
        ),
        -- Leases that heartbeats have extended beyond the time they are found by.
        (
            select min(l.lease_until)
            from (
                select j.lease_until
                from queue_job j
                where j.queue = queue_wait.queue and j.ready_at is not null and j.ready_at <= v_now
                order by j.ready_at
                limit 100
            ) l
            where l.lease_until > v_now
        )
    ) - v_now;
end
$$;

comment on function queue_wait is $$
How long a consumer may sleep before the next waiting job of a queue comes due.

Meant for a consumer about to sleep, after `queue_listen`: ask this, then `queue_get`, and only if
that returned nothing, sleep. Jobs that could be taken now don't count here (`queue_get` would have given
them; those that others hold must not keep a consumer awake).

**queue**: name of the queue.

Returns an interval above zero, or null if no job waits or the queue is paused: then
sleep until a notification. While a transaction is open that began to put before this session
listened, it is 20 milliseconds at most.

Errors: 22023 for a bad name.

    select queue_wait('apples');
$$;

revoke all on function queue_wait from public;
