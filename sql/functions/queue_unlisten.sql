create or replace function queue_unlisten(
    queue text
)
returns void
language plpgsql
volatile
security definer
set search_path from current
as $$
declare
    v_channel text := queue_channel(queue);
    v_listening text := coalesce(current_setting('pgq_py.listening', true), '');
    v_unsettled text := coalesce(current_setting('pgq_py.unsettled', true), '');
    v_key bigint := _queue_key(queue);
    v_held text[];
    v_kind integer;
begin
    execute format('unlisten %I', v_channel);
    -- Nothing else is listened to, and all is settled. No more than that on a job's way to who was woken for it.
    if v_listening = ' ' || v_channel || ':one1' and v_unsettled = '' then
        perform pg_advisory_unlock_shared(v_key), set_config('pgq_py.listening', '', false);
        return;
    end if;
    v_held := regexp_match(v_listening, v_channel || ':([a-z]+)([0-9]+)');
    if v_held[1] = 'one' then
        for v_n in 1 .. v_held[2]::integer loop
            exit when not pg_advisory_unlock_shared(v_key);
        end loop;
    elsif v_held[1] = 'many' then
        for v_n in 1 .. v_held[2]::integer loop
            exit when not pg_advisory_unlock_shared(_queue_class(), 64);
        end loop;
    else
        -- A queue_listen that was interrupted or rolled back has left its lock.
        loop
            select l.objsubid
            into v_kind
            from pg_locks l
            where l.locktype = 'advisory'
                and l.pid = pg_backend_pid()
                and l.mode = 'ShareLock'
                and (l.classid::bigint << 32 | l.objid::bigint, l.objsubid) in (
                    (v_key, 1), (_queue_class()::bigint << 32 | 64, 2)
                )
                and (l.objsubid = 1 or position(':many' in v_listening) = 0)
            limit 1;
            exit when not found;
            if v_kind = 1 then
                perform pg_advisory_unlock_shared(v_key);
            else
                perform pg_advisory_unlock_shared(_queue_class(), 64);
            end if;
        end loop;
    end if;
    perform set_config('pgq_py.listening', regexp_replace(v_listening, ' ?' || v_channel || ':[a-z0-9]+', ''), false);
    perform set_config(
        'pgq_py.unsettled',
        regexp_replace(v_unsettled, ' ?' || v_channel || ':[0-9]*', ''),
        false
    );
end
$$;

comment on function queue_unlisten is $$
The end of `queue_listen`: this session is not notified any more.

**queue**: name of the queue.

Errors: 22023 for a bad name.

    select queue_unlisten('apples');
$$;

revoke all on function queue_unlisten from public;
