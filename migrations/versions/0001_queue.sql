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
-- Every statement names its queue, and the primary key starts with it: that is how the
-- table can be partitioned or distributed by queue. No foreign keys point here: they
-- would cost each put and get a look-up, and protect nothing that a queue has.
--
-- This file and functions/ are the truth; migrations/ say how a database gets here.
-- All names are unqualified: whoever runs the files sets the search_path to the schema
-- of the installation, and every function pins it (`set search_path from current`).

create table queue_job (
    -- Fixed widths first, the widest first: 16 bytes less per row than in reading order.
    id bigint generated always as identity,
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
create index queue_job_ready_idx on queue_job (queue, rank, expected_at, id) where ready_at is null;

create index queue_job_waiting_idx on queue_job (queue, ready_at) where ready_at is not null;

create unique index queue_job_dedupe_idx on queue_job (queue, dedupe_key) where dedupe_key is not null;

create table queue_dead (
    id bigint not null,
    died_at timestamptz not null,
    expected_at timestamptz,
    enqueued_at timestamptz,
    schedule_at timestamptz,
    priority integer not null default 0,
    attempts integer not null default 0,
    max_attempts integer,
    queue text collate "C" not null,
    reason text not null,
    dedupe_key text,
    consumer text,
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

-- Below this line `make sql` copies from sql/functions; edit the functions there.

-- functions/_queue_find.sql
create or replace function _queue_find(
    queue text,
    dedupe_key text
)
returns bigint
language plpgsql
volatile
security definer
set search_path from current
set enable_seqscan = off
as $$
begin
    return (
        select j.id
        from queue_job j
        where j.queue = _queue_find.queue and j.dedupe_key = _queue_find.dedupe_key
    );
end
$$;

comment on function _queue_find is
    'Private: the id of the live job with this dedupe_key, null if there is none.';

revoke all on function _queue_find from public;

-- functions/_queue_pick.sql
create or replace function _queue_pick(
    queue text,
    now timestamptz,
    count integer
)
returns bigint[]
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
    v_ids bigint[] := '{}';
    v_window bigint := count::bigint + 100;
    v_again boolean := false;
    v_ready bigint;
    v_due bigint;
    v_job record;
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
                    where j.queue = _queue_pick.queue and j.ready_at is not null and j.ready_at <= _queue_pick.now
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
            perform
            from queue_job j
            where j.queue = _queue_pick.queue and j.id = v_job.id
                and (j.ready_at is null or j.ready_at <= _queue_pick.now)
            for update skip locked;
            if found then
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
    'Private: lock the best COUNT jobs among the ready and those that have come due, and nothing else. Gives their ids.';

revoke all on function _queue_pick from public;

-- functions/_queue_promote.sql
create or replace function _queue_promote(
    queue text,
    now timestamptz,
    count integer
)
returns bigint[]
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
    v_ids bigint[];
    v_id bigint;
begin
    v_ids := array(
        select j.id
        from queue_job j
        where j.queue = _queue_promote.queue and j.ready_at is not null and j.ready_at <= _queue_promote.now
        order by j.ready_at
        limit _queue_promote.count
        for update skip locked
    );
    -- One by one, for the reason given in queue_get.
    foreach v_id in array v_ids loop
        update queue_job j set ready_at = null where j.queue = _queue_promote.queue and j.id = v_id;
    end loop;
    return v_ids;
end
$$;

comment on function _queue_promote is
    'Private: move up to COUNT jobs that have come due from the waiting to the ready, those due first, and give their ids. They stay locked until the transaction ends: only for callers who commit at once.';

revoke all on function _queue_promote from public;

-- functions/_queue_refuse_count.sql
create or replace function _queue_refuse_count(
    count integer
)
returns void
language plpgsql
stable
security definer
set search_path from current
as $$
begin
    raise exception using
        errcode = 'invalid_parameter_value',
        message = format('count is %s', coalesce(count::text, 'null')),
        hint = 'Ask for at least one job.';
end
$$;

comment on function _queue_refuse_count is
    'Private: the error for a count of jobs that is null or below 1 (22023).';

revoke all on function _queue_refuse_count from public;

-- functions/_queue_refuse_name.sql
create or replace function _queue_refuse_name(
    queue text
)
returns void
language plpgsql
stable
security definer
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
security definer
set search_path from current
as $$
begin
    if at is not null and after is not null then
        raise exception using
            errcode = 'invalid_parameter_value',
            message = format('both %s_at and %s_in are given', name, name),
            hint = 'Give the time, or how long from now, but not both.';
    end if;
    at := coalesce(at, reference + after);
    if not isfinite(at) then
        raise exception using
            errcode = 'datetime_field_overflow',
            message = format('%s_at is infinite', name),
            hint = 'Give a finite time, or none at all.';
    end if;
    return at;
end
$$;

comment on function _queue_time is
    'Private: the moment that NAME_at or NAME_in mean. Both given: 22023. Infinite: 22008.';

revoke all on function _queue_time from public;

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
begin
    if octet_length(queue_bury.queue) between 1 and 255 is not true then
        perform _queue_refuse_name(queue_bury.queue);
    end if;
    insert into queue_dead (
        queue, id, died_at, reason, data, data_text, data_bytes, priority, enqueued_at,
        schedule_at, expected_at, attempts, max_attempts, consumer, dedupe_key, headers
    )
    values (
        queue_bury.queue, queue_bury.id, clock_timestamp(), queue_bury.reason,
        queue_bury.data, queue_bury.data_text, queue_bury.data_bytes, queue_bury.priority,
        queue_bury.enqueued_at, queue_bury.schedule_at, queue_bury.expected_at,
        queue_bury.attempts, queue_bury.max_attempts, queue_bury.consumer,
        queue_bury.dedupe_key, queue_bury.headers
    )
    on conflict (queue, id) do nothing;
end
$$;

comment on function queue_bury is $$
Put a job that was taken with `queue_get` among the dead, because it can't be read.

For consumers that find that the data of a job is not what they can decode: in the
transaction that took it, or after that, as soon as they find out. The job stays for
inspection in the table `queue_dead`.

**queue**, **id**: the job.
**reason**: why, in words.

The other arguments are the job's fields, as `queue_get` returned them.

Errors: 22023 for a bad name; 23502 for a missing id or reason.

    select queue_bury('apples', 42, 'not an apple', data => '{"kind": "Conference"}');
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
    perform
    from queue_job j
    where j.queue = queue_cancel.queue and j.id = queue_cancel.id
    for update skip locked;
    if not found then
        return false;
    end if;
    delete from queue_job j where j.queue = queue_cancel.queue and j.id = queue_cancel.id;
    return true;
end
$$;

comment on function queue_cancel is $$
Remove a job from a queue before anybody takes it.

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
stable
security definer
set search_path from current
as $$
begin
    if octet_length(queue) between 1 and 255 is not true then
        perform _queue_refuse_name(queue);
    end if;
    -- Hashed because LISTEN cuts names after 63 bytes in silence, and pg_notify refuses them.
    return 'queue_' || to_hex(hashtextextended(current_schema() || '.' || queue collate "C", 0));
end
$$;

comment on function queue_channel is $$
The notification channel of a queue, to be given to LISTEN.

A put into the queue notifies this channel when it commits, with an empty payload. The
name is made from the schema and the queue by a hash; two queues that share one cause
needless wake-ups, nothing else. It may differ between servers: ask for it, don't store it.

Waiting for a job without a gap, in this order: LISTEN (committed), `queue_wait`,
`queue_get`; when that returned nothing, sleep until a notification or for as long as
`queue_wait` said, whichever comes first, but no longer than a few seconds.

**queue**: name of the queue.

Returns the name, 63 bytes at most.

Errors: 22023 for a bad name.

    select format('listen %I', queue_channel('apples')) \gexec
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
    v_last bigint := 0;
    v_ids bigint[];
    v_rows bigint;
begin
    if octet_length(queue_clear.queue) between 1 and 255 is not true then
        perform _queue_refuse_name(queue_clear.queue);
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
    return v_cleared;
end
$$;

comment on function queue_clear is $$
Remove all jobs of a queue, the scheduled ones too. Its settings and its dead jobs stay.

A job that a transaction is taking at this moment is left to that transaction; the call
does not wait for it.

**queue**: name of the queue.

Returns how many jobs were removed.

Errors: 22023 for a bad name.

    select queue_clear('apples');
$$;

revoke all on function queue_clear from public;

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
    if queue_count.scheduled then
        return (select count(*) from queue_job j where j.queue = queue_count.queue);
    end if;
    -- Two counts, so that each can walk its own index.
    return (
        select count(*) from queue_job j where j.queue = queue_count.queue and j.ready_at is null
    ) + (
        select count(*)
        from queue_job j
        where j.queue = queue_count.queue and j.ready_at is not null and j.ready_at <= v_now
    );
end
$$;

comment on function queue_count is $$
Count the jobs of a queue, exactly; the time grows with the number.

**queue**: name of the queue.
**scheduled**: false counts the jobs that could be taken now, true also those that wait for
their time.

Returns the number. Jobs that a transaction is taking at this moment still count.

Errors: 22023 for a bad name.

    select queue_count('apples');
$$;

revoke all on function queue_count from public;

-- functions/queue_create.sql
create or replace function queue_create(
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
    if octet_length(queue_create.queue) between 1 and 255 is not true then
        perform _queue_refuse_name(queue_create.queue);
    end if;
    insert into queue_setting (queue) values (queue_create.queue) on conflict (queue) do nothing;
    return found;
end
$$;

comment on function queue_create is $$
Create a queue by name, so that it is known (to `queue_stats`, for example) before its first
job comes. Nothing else needs it: a put makes its queue.

**queue**: name of the queue, 1 to 255 bytes, any character but NUL.

Returns true if the queue was not known by name before.

Errors: 22023 for a bad name.

    select queue_create('apples');
$$;

revoke all on function queue_create from public;

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
begin
    if octet_length(queue_drop.queue) between 1 and 255 is not true then
        perform _queue_refuse_name(queue_drop.queue);
    end if;
    delete from queue_setting s where s.queue = queue_drop.queue;
    v_found := found;
    delete from queue_job j where j.queue = queue_drop.queue;
    v_found := v_found or found;
    delete from queue_dead d where d.queue = queue_drop.queue;
    return v_found or found;
end
$$;

comment on function queue_drop is $$
Remove a queue with all that is in it: jobs, dead jobs and settings.

Waits for transactions that are taking jobs from it. A put afterwards makes the queue anew.

**queue**: name of the queue.

Returns true if there was anything to remove.

Errors: 22023 for a bad name.

    select queue_drop('apples');
$$;

revoke all on function queue_drop from public;

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
    v_paused boolean;
    v_due boolean;
    v_promoted bigint[] := '{}';
    v_ids bigint[];
    v_id bigint;
begin
    if octet_length(queue_get.queue) between 1 and 255 is not true then
        perform _queue_refuse_name(queue_get.queue);
    end if;
    if queue_get.count >= 1 is not true then
        perform _queue_refuse_count(queue_get.count);
    end if;

    select
        exists (select from queue_setting s where s.queue = queue_get.queue and s.paused),
        (
            select j.ready_at
            from queue_job j
            where j.queue = queue_get.queue and j.ready_at is not null
            order by j.ready_at
            limit 1
        ) <= v_now
    into v_paused, v_due;
    if v_paused then
        return;
    end if;
    if v_due and queue_get.promote then
        -- Steps of a bounded size: 200,000 jobs that come due together must not make this
        -- call wait for all of them.
        v_promoted := _queue_promote(queue_get.queue, v_now, greatest(100, queue_get.count));
        v_due := false;
    end if;

    if v_due is not true then
        v_ids := array(
            select j.id
            from queue_job j
            where j.queue = queue_get.queue and j.ready_at is null
            order by j.rank, j.expected_at, j.id
            limit queue_get.count
            for update skip locked
        );
    else
        v_ids := _queue_pick(queue_get.queue, v_now, queue_get.count);
    end if;

    -- One by one: before PostgreSQL 17 `id = any (v_ids)`, planned while the table was
    -- empty, is a filter on a walk through the whole queue.
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

    -- Takers that came by meanwhile could not see what was promoted here, and sleep.
    if cardinality(v_promoted) > 0 then
        if exists (select unnest(v_promoted) except select unnest(v_ids)) then
            perform pg_notify(queue_channel(queue_get.queue), '');
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

Errors: 22023 for a bad name or a count below 1; 40001 above READ COMMITTED, where another
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
    v_queue text;
    v_left integer := count;
    v_rows bigint;
begin
    if queue_get_any.count >= 1 is not true then
        perform _queue_refuse_count(queue_get_any.count);
    end if;
    foreach v_queue in array coalesce(queues, '{}') loop
        return query
        select
            v_queue, g.id, g.data, g.data_text, g.data_bytes, g.priority, g.enqueued_at, g.schedule_at,
            g.expected_at, g.attempts, g.max_attempts, g.last_error, g.progress_count, g.consumer,
            g.dedupe_key, g.headers
        from queue_get(v_queue, v_left, queue_get_any.promote) g;
        get diagnostics v_rows = row_count;
        v_left := v_left - v_rows;
        exit when v_left = 0;
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
    if queue_list.count < 1 then
        perform _queue_refuse_count(queue_list.count);
    end if;
    -- In three parts, so that the first of a million jobs are read from an index.
    return query
    select
        l.id, l.data, l.data_text, l.data_bytes, - l.rank, l.enqueued_at, l.schedule_at,
        nullif(l.expected_at, 'infinity'), l.attempts, l.max_attempts, l.last_error,
        l.progress_count, l.consumer, l.dedupe_key, l.headers, l.ready_at
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
            where j.queue = queue_list.queue and j.ready_at is not null and j.ready_at <= v_now
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
    ) l
    -- All that could be taken now counts as due now, and sorts as it would be taken.
    order by coalesce(greatest(l.ready_at, v_now), v_now), l.rank, l.expected_at, l.id
    limit queue_list.count;
end
$$;

comment on function queue_list is $$
Look at the jobs of a queue without taking them.

They come in the order in which they would be taken; jobs that wait come after those that
could be taken now, the one due first before the others. Jobs that a transaction is taking
at this moment are still listed.

**queue**: name of the queue.
**scheduled**: true also lists the jobs that wait for their time.
**count**: list this many at most; by default all of them, which is a lot for a long queue.

Returns one row for each job: what `queue_get` returns, and `ready_at`, the time a waiting
job comes due, null for a job that is ready.

Errors: 22023 for a bad name or a count below 1.

    select id, data, ready_at from queue_list('apples', scheduled => true, count => 10);
$$;

revoke all on function queue_list from public;

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
    v_id bigint;
begin
    if octet_length(queue_put.queue) between 1 and 255 is not true then
        perform _queue_refuse_name(queue_put.queue);
    end if;
    if queue_put.data_text is null and queue_put.data_bytes is null then
        queue_put.data := coalesce(queue_put.data, 'null');
    elsif num_nonnulls(queue_put.data, queue_put.data_text, queue_put.data_bytes) > 1 then
        raise exception using
            errcode = 'invalid_parameter_value',
            message = 'more than one of data, data_text and data_bytes is given',
            hint = 'A job holds one of the three.';
    end if;
    if queue_put.schedule_at is not null or queue_put.schedule_in is not null then
        v_schedule_at := _queue_time('schedule', queue_put.schedule_at, queue_put.schedule_in, v_now);
    end if;
    if queue_put.expected_at is not null or queue_put.expected_in is not null then
        v_expected_at := _queue_time('expected', queue_put.expected_at, queue_put.expected_in, v_now);
    end if;

    -- A job put again under its key waits here for a transaction that holds the key, and
    -- loops when that transaction took the job away between the insert and the look-up.
    loop
        insert into queue_job (
            queue, enqueued_at, ready_at, schedule_at, expected_at, rank,
            dedupe_key, headers, max_attempts, data, data_text, data_bytes
        )
        values (
            queue_put.queue,
            v_now,
            case when v_schedule_at > v_now then v_schedule_at end,
            v_schedule_at,
            v_expected_at,
            - coalesce(queue_put.priority, 0),
            queue_put.dedupe_key,
            queue_put.headers,
            queue_put.max_attempts,
            queue_put.data,
            queue_put.data_text,
            queue_put.data_bytes
        )
        on conflict (queue, dedupe_key) where dedupe_key is not null do nothing
        returning id into v_id;
        exit when found;
        v_id := _queue_find(queue_put.queue, queue_put.dedupe_key);
        if v_id is not null then
            return v_id;
        end if;
    end loop;

    if queue_put.notify then
        perform pg_notify(queue_channel(queue_put.queue), '');
    end if;
    return v_id;
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
stores nothing and returns the id of the job that is there. A put waits for the end of a
transaction that is putting or taking the job with its key.
**headers**: anything for the consumer that is not the data, a trace context for example.
**max_attempts**: how often the job may be tried before it counts as dead; by default as
the queue says.
**schedule_in**, **expected_in**: the same two times as an interval from now, by the
server's clock; a negative interval means now.
**data_text**, **data_bytes**: text or bytes instead of JSON, stored as they are.
**notify**: false leaves sleeping consumers asleep until they poll. Needed in a transaction
that is to be prepared (two-phase commit), which can't notify.

Returns the job's id.

Errors: 22023 for a bad name or arguments that exclude each other; 22008 for an infinite or
impossible time; 22003 for the priority -2147483648, which has no opposite; 22P02, 22P05 or
54001 for text that is not JSON, is not Unicode or is nested too deep; 40001 where the key
is being put by another transaction and the isolation level is above READ COMMITTED; 40P01
where two transactions that hold a key each wait for the other's.

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
returns setof bigint
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
    v_rows bigint;
    v_inserted bigint := 0;
begin
    if octet_length(queue_put_many.queue) between 1 and 255 is not true then
        perform _queue_refuse_name(queue_put_many.queue);
    end if;
    if num_nonnulls(queue_put_many.data, queue_put_many.data_text, queue_put_many.data_bytes) > 1 then
        raise exception using
            errcode = 'invalid_parameter_value',
            message = 'more than one of data, data_text and data_bytes is given',
            hint = 'A job holds one of the three; put jobs of different kinds in different calls.';
    end if;
    if array_position(queue_put_many.data_text, null) is not null
        or array_position(queue_put_many.data_bytes, null) is not null
    then
        raise exception using
            errcode = 'null_value_not_allowed',
            message = 'an element of data_text or data_bytes is null',
            hint = 'Only JSON has a null to store; leave the element out, or put it as JSON.';
    end if;
    if cardinality(queue_put_many.dedupe_keys) <> v_size then
        raise exception using
            errcode = 'array_subscript_error',
            message = format('%s dedupe_keys are given for %s jobs', cardinality(queue_put_many.dedupe_keys), v_size),
            hint = 'Give one key for each job; a null key is no key.';
    end if;
    if queue_put_many.schedule_at is not null or queue_put_many.schedule_in is not null then
        v_schedule_at := _queue_time('schedule', queue_put_many.schedule_at, queue_put_many.schedule_in, v_now);
    end if;
    if queue_put_many.expected_at is not null or queue_put_many.expected_in is not null then
        v_expected_at := _queue_time('expected', queue_put_many.expected_at, queue_put_many.expected_in, v_now);
    end if;

    if v_size = 0 then
        return;
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
        returning id;
        v_inserted := v_size;
    else
        -- Ids in the order of the array, rows in the order of the keys: two batches that
        -- share keys in different orders wait for each other instead of running into a
        -- deadlock. As in queue_put, a key may be gone between the insert and the look-up.
        v_new_ids := array(
            select nextval(pg_get_serial_sequence('queue_job', 'id')) from generate_series(1, v_size)
        );
        loop
            insert into queue_job (
                id, queue, enqueued_at, ready_at, schedule_at, expected_at, rank,
                dedupe_key, headers, max_attempts, data, data_text, data_bytes
            )
            overriding system value
            select
                u.new_id,
                queue_put_many.queue,
                v_now,
                case when v_schedule_at > v_now then v_schedule_at end,
                v_schedule_at,
                v_expected_at,
                - coalesce(queue_put_many.priority, 0),
                u.dedupe_key,
                queue_put_many.headers,
                queue_put_many.max_attempts,
                case when num_nulls(u.data_text, u.data_bytes) = 2 then coalesce(u.data, 'null') end,
                u.data_text,
                u.data_bytes
            from unnest(
                v_new_ids,
                v_ids,
                queue_put_many.dedupe_keys,
                queue_put_many.data,
                queue_put_many.data_text,
                queue_put_many.data_bytes
            ) with ordinality as u (new_id, id, dedupe_key, data, data_text, data_bytes, n)
            where u.id is null
            order by u.dedupe_key collate "C", u.n
            on conflict (queue, dedupe_key) where dedupe_key is not null do nothing;
            get diagnostics v_rows = row_count;
            v_inserted := v_inserted + v_rows;
            v_ids := array(
                select
                    case
                        when u.dedupe_key is null then u.new_id
                        when u.id is null then _queue_find(queue_put_many.queue, u.dedupe_key)
                        else u.id
                    end
                from unnest(v_new_ids, v_ids, queue_put_many.dedupe_keys)
                    with ordinality as u (new_id, id, dedupe_key, n)
                order by u.n
            );
            exit when array_position(v_ids, null) is null;
        end loop;
        return query select u.id from unnest(v_ids) with ordinality as u (id, n) order by u.n;
    end if;

    if queue_put_many.notify and v_inserted > 0 then
        perform pg_notify(queue_channel(queue_put_many.queue), '');
    end if;
end
$$;

comment on function queue_put_many is $$
Put many jobs into a queue at once, in one statement: all of them or none.

**queue**: name of the queue.
**data**: one JSON value for each job; a null element is JSON's null.
**dedupe_keys**: one key for each job, as in `queue_put`; a null element is no key.
**data_text**, **data_bytes**: text or bytes instead of JSON; no element may be null.

The other arguments are those of `queue_put` and hold for every job of the batch.

Returns the jobs' ids in the order of the array. Where a key is already in the queue, or
twice in the batch, it is the id of the job that is there.

Errors: those of `queue_put`; 2202E where the number of keys is not the number of jobs;
22004 for a null text.

    select * from queue_put_many('apples', array['{"kind": "Cox"}', '{"kind": "Gala"}']::jsonb[]);
$$;

revoke all on function queue_put_many from public;

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
    update queue_setting s set paused = false where s.queue = queue_resume.queue and s.paused;
    if not found then
        return false;
    end if;
    perform pg_notify(queue_channel(queue_resume.queue), '');
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
    next_due_at timestamptz
)
language plpgsql
volatile
security definer
set search_path from current
as $$
declare
    v_now timestamptz := clock_timestamp();
begin
    if octet_length(queue_stats.queue) not between 1 and 255 then
        perform _queue_refuse_name(queue_stats.queue);
    end if;
    return query
    select
        n.name,
        coalesce(j.ready, 0),
        coalesce(j.scheduled, 0),
        coalesce(j.retrying, 0),
        coalesce(j.leased, 0),
        (select count(*) from queue_dead d where d.queue = n.name),
        coalesce((select s.paused from queue_setting s where s.queue = n.name), false),
        j.oldest_ready_at,
        j.next_due_at
    from (
        select queue_stats.queue as name where queue_stats.queue is not null
        union
        select s.queue from queue_setting s where queue_stats.queue is null
        union
        select d.queue from queue_dead d where queue_stats.queue is null
        union
        select a.queue from queue_job a where queue_stats.queue is null
    ) n
    left join (
        select
            a.queue,
            count(*) filter (where a.ready_at is null or a.ready_at <= v_now) as ready,
            count(*) filter (where a.ready_at > v_now and a.receipt is null and a.attempts = 0) as scheduled,
            count(*) filter (where a.ready_at > v_now and a.receipt is null and a.attempts > 0) as retrying,
            count(*) filter (where a.ready_at > v_now and a.receipt is not null) as leased,
            min(coalesce(a.ready_at, a.schedule_at, a.enqueued_at))
                filter (where a.ready_at is null or a.ready_at <= v_now) as oldest_ready_at,
            min(a.ready_at) filter (where a.ready_at > v_now) as next_due_at
        from queue_job a
        where queue_stats.queue is null or a.queue = queue_stats.queue
        group by a.queue
    ) j on j.queue = n.name
    order by n.name;
end
$$;

comment on function queue_stats is $$
What is in a queue, or in all of them. All figures are exact, and the time grows with the
number of jobs.

**queue**: name of the queue; by default all queues that have jobs, dead jobs or settings.

Returns one row for each queue: **name**; **ready**, jobs that could be taken now;
**scheduled**, waiting for their time; **retrying**, waiting after a failed attempt;
**leased**, held by a consumer; **dead**; **paused**; **oldest_ready_at**, since when the job
that has waited longest could have been taken; **next_due_at**, when the next waiting job
comes due.

Errors: 22023 for a bad name.

    select * from queue_stats('apples');
$$;

revoke all on function queue_stats from public;

-- functions/queue_update.sql
create or replace function queue_update(
    queue text,
    id bigint,
    data jsonb default null,
    data_text text default null,
    data_bytes bytea default null
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
    if octet_length(queue_update.queue) between 1 and 255 is not true then
        perform _queue_refuse_name(queue_update.queue);
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
    perform
    from queue_job j
    where j.queue = queue_update.queue and j.id = queue_update.id
    for update skip locked;
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

Returns true if the data was replaced; false if there is no such job, or a transaction is
taking it at this moment (the call does not wait for that transaction's end).

Errors: 22023 for a bad name or more than one kind of data; 22P02, 22P05 or 54001 for text
that is not JSON, is not Unicode or is nested too deep.

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
begin
    if octet_length(queue_wait.queue) between 1 and 255 is not true then
        perform _queue_refuse_name(queue_wait.queue);
    end if;
    if exists (select from queue_setting s where s.queue = queue_wait.queue and s.paused) then
        return null;
    end if;
    return (
        select j.ready_at - v_now
        from queue_job j
        where j.queue = queue_wait.queue and j.ready_at is not null and j.ready_at > v_now
        order by j.ready_at
        limit 1
    );
end
$$;

comment on function queue_wait is $$
How long a consumer may sleep before the next waiting job of a queue comes due.

Meant for a consumer about to sleep: ask this, then `queue_get`, and only if that returned
nothing, sleep. Jobs that could be taken now don't count here (`queue_get` would have given
them; those that others hold must not keep a consumer awake).

**queue**: name of the queue.

Returns an interval above zero, or null if no job is scheduled or the queue is paused: then
sleep until a notification (see `queue_channel`).

Errors: 22023 for a bad name.

    select queue_wait('apples');
$$;

revoke all on function queue_wait from public;
