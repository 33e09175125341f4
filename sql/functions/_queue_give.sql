create or replace function _queue_give(
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
    v_schema text := current_schema();
    v_role regrole;
    v_stranger record;
    v_new boolean;
begin
    -- First, and with nothing before it or in it that a stranger's function could be taken for.
    select s.problem, s.remedy into v_stranger from _queue_strangers('queue_right') s limit 1;
    if found then
        raise exception using
            errcode = 'object_not_in_prerequisite_state',
            message = 'no right on a queue would hold: ' || v_stranger.problem,
            hint = 'Do this: ' || v_stranger.remedy || '; or install the queue into a schema of its own.';
    end if;
    v_role := _queue_role(role);
    if privilege in ('put', 'get', 'observe', 'manage') is not true then
        perform _queue_refuse_privilege(privilege);
    end if;

    -- One at a time: two at once that grant the same function are an error.
    lock table queue_right in share row exclusive mode;
    if not has_schema_privilege(v_role, v_schema, 'usage') then
        if not has_schema_privilege(v_schema, 'usage with grant option') then
            raise exception using
                errcode = 'insufficient_privilege',
                message = format('role %I can''t let role %I use schema %I', current_user, _queue_give.role, v_schema),
                hint = format('Ask its owner: grant usage on schema %I to %I', v_schema, _queue_give.role);
        end if;
        execute format('grant usage on schema %I to %I', v_schema, _queue_give.role);
    end if;
    insert into queue_right (queue, role, privilege)
    values (_queue_give.queue, v_role, _queue_give.privilege)
    on conflict (queue, role, privilege) do nothing;
    v_new := found;
    perform _queue_align(v_role);
    return v_new;
end
$$;

comment on function _queue_give is
    'Private: queue_grant, and queue_grant_all for the empty name.';

revoke all on function _queue_give from public;
