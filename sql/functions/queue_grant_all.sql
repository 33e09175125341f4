create or replace function queue_grant_all(
    role text,
    privilege text
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
    return _queue_give('', queue_grant_all.role, queue_grant_all.privilege);
end
$$;

comment on function queue_grant_all is $$
Give a role a right on all queues, those that are not there yet among them. `queue_health` needs
`observe` on all queues, `queue_maintain` needs `manage` on all.

**role**, **privilege**: as in `queue_grant`.

Returns true if the role did not have this right itself.

Errors: those of `queue_grant`.

    select queue_grant_all('monitoring', 'observe');
$$;

revoke all on function queue_grant_all from public;
