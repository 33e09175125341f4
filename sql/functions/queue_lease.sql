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
