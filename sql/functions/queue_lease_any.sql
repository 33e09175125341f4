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
