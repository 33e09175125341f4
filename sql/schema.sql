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
