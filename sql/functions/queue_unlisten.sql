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
    v_lock text := (regexp_match(v_listening, v_channel || ':(\w+)'))[1];
begin
    execute format('unlisten %I', v_channel);
    if v_lock = 'one' then
        perform pg_advisory_unlock_shared(_queue_key(queue));
    elsif v_lock = 'many' then
        perform pg_advisory_unlock_shared(_queue_class(), 64);
    end if;
    perform set_config('pgq_py.listening', btrim(regexp_replace(v_listening, ' ?' || v_channel || ':\w+', '')), false);
    perform set_config(
        'pgq_py.unsettled',
        btrim(replace(coalesce(current_setting('pgq_py.unsettled', true), ''), v_channel || ':', '')),
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
