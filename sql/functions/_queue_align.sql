create or replace function _queue_align(
    role regrole default null
)
returns bigint
language plpgsql
volatile
set search_path from current
as $$
declare
    v_schema text := current_schema();
    v_change record;
    v_changes bigint := 0;
begin
    for v_change in
        with wanted as (
            select distinct a.oid as role, f.name
            from queue_right r
            join pg_roles a on a.oid = r.role
            join _queue_functions() f on r.privilege = any (f.privileges)
            where r.role = _queue_align.role or _queue_align.role is null
        ), had as (
            select a.grantee as role, p.proname::text as name
            from pg_proc p
            cross join aclexplode(p.proacl) a
            where p.pronamespace = (select c.relnamespace from pg_class c where c.oid = 'queue_right'::regclass)
                and p.proname in (select f.name from _queue_functions() f)
                and a.grantor = p.proowner
                and a.grantee <> p.proowner
                -- What somebody granted by hand to a role that has no rights is left alone: it opens nothing.
                and (
                    a.grantee = _queue_align.role
                    or _queue_align.role is null and a.grantee in (select r.role from queue_right r)
                )
        )
        select
            pg_get_userbyid(coalesce(w.role, h.role)) as role,
            coalesce(w.name, h.name) as name,
            h.name is null as is_new
        from wanted w
        full join had h on h.role = w.role and h.name = w.name
        where (w.name is null or h.name is null)
            and coalesce(w.role, h.role) <> (select c.relowner from pg_class c where c.oid = 'queue_right'::regclass)
        order by 2, 1
    loop
        if v_change.is_new then
            execute format('grant execute on function %I.%I to %I', v_schema, v_change.name, v_change.role);
        else
            -- With what the role has granted on, where somebody gave it the grant option by hand.
            execute format('revoke execute on function %I.%I from %I cascade', v_schema, v_change.name, v_change.role);
        end if;
        v_changes := v_changes + 1;
    end loop;
    return v_changes;
end
$$;

comment on function _queue_align is
    'Private: give a role, or each that has rights, EXECUTE on the functions that its rights need, and take it away from the others. What changes a function may lose grants, and what adds one makes it without. Gives the number of changes.';

revoke all on function _queue_align from public;
