create or replace function queue_revoke_all(
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
    if session_user <> current_user
        or current_setting('session_authorization') = ''
        or current_setting('role') <> 'none'
    then
        perform _queue_allow('', 'grant');
    end if;
    return _queue_take(null, queue_revoke_all.role, queue_revoke_all.privilege);
end
$$;

comment on function queue_revoke_all is $$
Take from a role what it was given: on all queues, and on each. Needed before the role can be
dropped, and so is `revoke usage on schema`, if `queue_grant` gave it that: in a schema of its own.

**role**: as in `queue_grant`.
**privilege**: as there; by default all of them.

Returns true if there was a right to take.

Errors: those of `queue_revoke`.

    select queue_revoke_all('web');
$$;

revoke all on function queue_revoke_all from public;
