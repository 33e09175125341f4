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
