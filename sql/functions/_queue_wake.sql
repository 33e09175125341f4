create or replace function _queue_wake(
    queue text
)
returns void
language plpgsql
volatile
set search_path from current
as $$
begin
    -- Called after writing, as queue_wait relies on.
    if not _queue_nobody_sleeps(queue) then
        perform pg_notify(_queue_channel(queue), '');
    end if;
end
$$;

comment on function _queue_wake is
    'Private: wake whoever sleeps on a queue, when this transaction commits.';

revoke all on function _queue_wake from public;
