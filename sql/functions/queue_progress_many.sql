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
