create or replace function _queue_role(
    role text
)
returns regrole
language plpgsql
stable
set search_path from current
as $$
declare
    -- Not as regrole reads it, which would want quotes around the name.
    v_role regrole := (select r.oid from pg_roles r where r.rolname = role);
begin
    if v_role is null then
        raise exception using
            errcode = 'undefined_object',
            message = case
                when role is null then 'the name of a role is missing'
                else format('there is no role %I', role)
            end,
            hint = case
                when role = 'public' then 'Make a role of which all are members, and give the right to that.'
                else 'Give the name of a role as pg_roles has it, without quotes around it.'
            end;
    end if;
    return v_role;
end
$$;

comment on function _queue_role is
    'Private: the role of this name; 42704 if there is none.';

revoke all on function _queue_role from public;
