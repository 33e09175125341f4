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
