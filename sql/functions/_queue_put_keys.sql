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
