create or replace function _queue_take(
    queue text,
    role text,
    privilege text
)
returns boolean
language plpgsql
volatile
set search_path from current
as $$
#variable_conflict use_column
declare
    v_role regrole := _queue_role(role);
    v_taken boolean;
    v_left record;
begin
    if privilege not in ('put', 'get', 'observe', 'manage') then
        perform _queue_refuse_privilege(privilege);
    end if;

    -- As in _queue_give.
    lock table queue_right in share row exclusive mode;
    delete from queue_right r
    where (r.queue = _queue_take.queue or _queue_take.queue is null)
        and r.role = v_role
        and (r.privilege = _queue_take.privilege or _queue_take.privilege is null);
    v_taken := found;
    perform _queue_align(v_role);

    if pg_has_role(v_role, current_user, 'usage') then
        raise warning using
            message = format('role %I still has all rights on all queues', _queue_take.role),
            hint = format('It is a superuser, or has the rights of role %I, the owner.', current_user);
        return v_taken;
    end if;
    for v_left in
        select
            r.privilege,
            case when r.queue = '' then 'all queues' else format('queue %I', r.queue) end as queues,
            pg_get_userbyid(r.role) as holder,
            case
                when r.queue = '' then format('queue_revoke_all(%L, %L)', pg_get_userbyid(r.role), r.privilege)
                else format('queue_revoke(%L, %L, %L)', r.queue, pg_get_userbyid(r.role), r.privilege)
            end as remedy
        from queue_right r
        where (r.queue in ('', _queue_take.queue) or _queue_take.queue is null)
            and (
                r.privilege = _queue_take.privilege
                or _queue_take.privilege is null
                or _queue_take.privilege = 'observe' and r.privilege = 'manage'
            )
            and pg_has_role(v_role, r.role, 'usage')
        order by r.queue, r.role, r.privilege
    loop
        raise warning using
            message = format(
                'role %I still may: role %I has the right to %s on %s',
                _queue_take.role, v_left.holder, v_left.privilege, v_left.queues
            ),
            hint = format('To end that: select %I.%s', current_schema(), v_left.remedy);
    end loop;
    return v_taken;
end
$$;

comment on function _queue_take is
    'Private: queue_revoke, and queue_revoke_all for null, which is everywhere.';

revoke all on function _queue_take from public;
