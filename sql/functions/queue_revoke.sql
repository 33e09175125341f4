create or replace function queue_revoke(
    queue text,
    role text,
    privilege text default null
)
returns boolean
language plpgsql
volatile
security definer
set search_path from current
as $$
begin
    if octet_length(queue_revoke.queue) between 1 and 255 is not true then
        perform _queue_refuse_name(queue_revoke.queue);
    end if;
    if session_user <> current_user
        or current_setting('session_authorization') = ''
        or current_setting('role') <> 'none'
    then
        perform _queue_allow(queue_revoke.queue, 'grant');
    end if;
    return _queue_take(queue_revoke.queue, queue_revoke.role, queue_revoke.privilege);
end
$$;

comment on function queue_revoke is $$
Take a right on one queue from a role. A right on all queues stays, and what the role may as a
member of another: then a warning says so.

**queue**, **role**: as in `queue_grant`.
**privilege**: as there; by default all that the role was given on this queue.

With the last right that needs it the role loses EXECUTE on a function, too, and so does whoever has
that from the role, if somebody let it grant that on. USAGE on the schema stays: who gave it can't
be told. It holds for calls that begin after the caller's transaction has committed; a transaction
above READ COMMITTED goes on with the rights that there were when it began.

Returns true if there was a right to take.

Errors: 22023 for a bad name or privilege; 42704 for a role that there is not; 42501 if the caller
is not the owner.

    select queue_revoke('apples', 'web', 'put');
$$;

revoke all on function queue_revoke from public;
