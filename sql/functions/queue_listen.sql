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
    -- Channels, each with the lock that is held for it and how often, and those that may still miss a notification.
    v_listening text := coalesce(current_setting('pgq_py.listening', true), '');
    v_unsettled text := coalesce(current_setting('pgq_py.unsettled', true), '');
    v_held text[] := regexp_match(v_listening, v_channel || ':([a-z]+)([0-9]+)');
    v_lock text := nullif(v_held[1], 'none');
    v_count integer := case when v_lock is null then 1 else v_held[2]::integer + 1 end;
begin
    execute format('listen %I', v_channel);
    -- The lock is taken even if it should be there: the setting comes back with a rollback of queue_unlisten,
    -- the lock does not.
    v_lock := coalesce(v_lock, case when regexp_count(v_listening, ':') < 16 then 'one' else 'many' end);
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
            v_count := 0;
        end if;
        perform pg_sleep(0.001);
    end loop;
    v_listening := regexp_replace(v_listening, ' ?' || v_channel || ':[a-z0-9]+', '');
    v_unsettled := regexp_replace(v_unsettled, ' ?' || v_channel || ':[0-9]*', '');
    perform set_config('pgq_py.listening', format('%s %s:%s%s', v_listening, v_channel, v_lock, v_count), false);
    perform set_config('pgq_py.unsettled', format('%s %s:', v_unsettled, v_channel), false);
    return v_channel;
end
$$;

comment on function queue_listen is $$
Listen for jobs of a queue: from now on whoever puts one notifies this session.

Putting notifies nobody unless a session listens in this way; a bare LISTEN is not enough. So
waiting for a job without a gap goes in this order: `queue_listen` (committed), then again and
again `queue_wait`, `queue_get`, and when that returned nothing, sleep until a notification or for
as long as `queue_wait` said, whichever comes first, but no longer than a few seconds.

The session keeps an advisory lock until `queue_unlisten`, DISCARD ALL or its end. Calling it again while it
listens does no harm. Locks are not rolled back: call this and `queue_unlisten` in no transaction.

**queue**: name of the queue.

Returns the channel on which the notifications come, see `queue_channel`.

Errors: 22023 for a bad name; 0A000 in a standby.

    select queue_listen('apples');
$$;

revoke all on function queue_listen from public;
