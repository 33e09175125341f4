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
    -- Channels, each with the lock that is held for it, and those that may still miss a notification.
    v_listening text := coalesce(current_setting('pgq_py.listening', true), '');
    v_key bigint;
    v_lock text;
begin
    execute format('listen %I', v_channel);
    if position(v_channel || ':' in v_listening) > 0 then
        return v_channel;
    end if;
    v_lock := case when regexp_count(v_listening, ':') < 16 then 'one' else 'many' end;
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
        end if;
        perform pg_sleep(0.001);
    end loop;
    perform set_config('pgq_py.listening', concat_ws(' ', nullif(v_listening, ''), v_channel || ':' || v_lock), false);
    perform set_config(
        'pgq_py.unsettled',
        concat_ws(' ', nullif(current_setting('pgq_py.unsettled', true), ''), v_channel || ':'),
        false
    );
    return v_channel;
end
$$;

comment on function queue_listen is $$
Listen for jobs of a queue: from now on whoever puts one notifies this session.

Putting notifies nobody unless a session listens in this way; a bare LISTEN is not enough. So
waiting for a job without a gap goes in this order: `queue_listen` (committed), then again and
again `queue_wait`, `queue_get`, and when that returned nothing, sleep until a notification or for
as long as `queue_wait` said, whichever comes first, but no longer than a few seconds.

The session keeps an advisory lock until `queue_unlisten`, DISCARD ALL or its end.

**queue**: name of the queue.

Returns the channel on which the notifications come, see `queue_channel`.

Errors: 22023 for a bad name; 0A000 in a standby.

    select queue_listen('apples');
$$;

revoke all on function queue_listen from public;
