create or replace function _queue_allow(
    queue text,
    variadic privileges text[]
)
returns void
language plpgsql
volatile
set search_path from current
as $$
declare
    v_caller text := coalesce(_queue_caller(), 'nobody');
begin
    if _queue_may(queue, variadic privileges) then
        return;
    end if;
    if 'grant' = any (privileges) then
        raise exception using
            errcode = 'insufficient_privilege',
            message = format('role %I can''t give or take rights on queues', v_caller),
            hint = format('The owner can, role %I, and whoever has the rights of that role.', current_user);
    end if;
    raise exception using
        errcode = 'insufficient_privilege',
        message = format(
            'role %I has no right to %s on %s',
            v_caller,
            privileges[1],
            case when queue = '' then 'all queues' else format('queue %I', queue) end
        ),
        hint = format(
            'Ask role %I for it: select %I.%s',
            current_user,
            current_schema(),
            case
                when queue = '' then format('queue_grant_all(%L, %L)', v_caller, privileges[1])
                else format('queue_grant(%L, %L, %L)', queue, v_caller, privileges[1])
            end
        );
end
$$;

comment on function _queue_allow is
    'Private: raises 42501 unless the caller has one of these privileges on a queue (see _queue_may). Each function asks first of all, unless its owner calls: that is told apart without a call, so that the owner pays next to nothing. Those that are called most ask _queue_may themselves.';

revoke all on function _queue_allow from public;
