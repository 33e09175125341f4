create or replace function queue_grant(
    queue text,
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
    if octet_length(queue_grant.queue) between 1 and 255 is not true then
        perform _queue_refuse_name(queue_grant.queue);
    end if;
    if session_user <> current_user
        or current_setting('session_authorization') = ''
        or current_setting('role') <> 'none'
    then
        perform _queue_allow(queue_grant.queue, 'grant');
    end if;
    return _queue_give(queue_grant.queue, queue_grant.role, queue_grant.privilege);
end
$$;

comment on function queue_grant is $$
Give a role a right on one queue. The owner of the functions has all rights; all others have none
but what they are given here. The role also gets EXECUTE on the functions that it needs, and
USAGE on the schema.

**queue**: name of the queue, which need not be there. A right is on the name: `queue_drop`
leaves it.
**role**: name of the role, as it is: `'Web Role'`, without quotes of its own. A member of the
role has the right, too, unless it does not inherit.
**privilege**: one of
`put`: put jobs, nothing else;
`get`: take jobs, and complete, fail, release or bury them; be notified;
`observe`: list, count, and see statistics, settings and the dead;
`manage`: all that `observe` may, and create, drop, pause, resume, clear, cancel, update, redrive.

Returns true if the role did not have this right itself.

Errors: 22023 for a bad name or privilege; 42704 for a role that there is not; 42501 if the caller
is not the owner, or the owner may not give USAGE on the schema; 55000 while others can make
functions in the schema, which could be run with the owner's rights.

    select queue_grant('apples', 'web', 'put');
$$;

revoke all on function queue_grant from public;
