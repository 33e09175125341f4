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
