create or replace function _queue_strangers(
    relation regclass
)
returns table (
    problem text,
    remedy text
)
language plpgsql
stable
-- Not our schema: this must not itself meet what it looks for.
set search_path to pg_catalog, pg_temp
as $$
declare
    v_schema oid;
    v_schema_owner oid;
    v_owner oid;
    -- From PostgreSQL 16 on a member may be one that neither has the rights nor can take the role on.
    v_set text := case when current_setting('server_version_num')::integer < 160000 then 'member' else 'set' end;
begin
    select n.oid, n.nspowner, c.relowner
    into v_schema, v_schema_owner, v_owner
    from pg_class c
    join pg_namespace n on n.oid = c.relnamespace
    where c.oid = _queue_strangers.relation;

    -- That pg_catalog comes first on our search_path is not enough: a function or operator whose arguments fit
    -- better is taken wherever it is on the path, and would run as the owner. Trusted are the owner, superusers,
    -- and the owner of the schema, who can put other functions in the place of ours.
    return query
    with trusted (role) as (
        select r.oid
        from pg_roles r
        cross join unnest(array[v_owner, v_schema_owner]) as o (owner)
        where pg_has_role(r.oid, o.owner, 'usage')
            or pg_has_role(r.oid, o.owner, v_set)
            or pg_has_role(r.oid, o.owner, 'member with admin option')
    ), stranger (problem, remedy) as (
        select
            format('role %s can make functions and operators in schema %I', g.name, n.nspname),
            format('revoke create on schema %I from %s', n.nspname, g.name)
        from pg_namespace n
        cross join aclexplode(n.nspacl) as a
        cross join lateral (
            select case when a.grantee = 0 then 'public' else quote_ident(pg_get_userbyid(a.grantee)) end
        ) as g (name)
        where n.oid = v_schema
            and a.privilege_type = 'CREATE'
            and (a.grantee = 0 or a.grantee not in (select t.role from trusted t))
        union all
        select
            format('function %s belongs to role %I', p.oid::regprocedure, pg_get_userbyid(p.proowner)),
            format(
                case
                    -- Whether it is ours, and was given away, can't be told.
                    when p.proname ~ '^_?queue_'
                        then 'alter function %s owner to %I if it is the queue''s, drop it if not'
                    else 'drop function %s'
                end,
                p.oid::regprocedure,
                pg_get_userbyid(v_owner)
            )
        from pg_proc p
        where p.pronamespace = v_schema
            and p.proowner not in (select t.role from trusted t)
            and (
                starts_with(p.proname, 'queue_')
                or starts_with(p.proname, '_queue_')
                or p.proname in (select c.proname from pg_proc c where c.pronamespace = 'pg_catalog'::regnamespace)
            )
        union all
        select
            format('operator %s belongs to role %I', o.oid::regoperator, pg_get_userbyid(o.oprowner)),
            format('drop operator %s', o.oid::regoperator)
        from pg_operator o
        where o.oprnamespace = v_schema and o.oprowner not in (select t.role from trusted t)
        union all
        -- Rights on our tables: with one on queue_right a role gives itself all others, a trigger runs as whoever puts.
        -- To read the jobs is not to be the owner, and may have been meant.
        select distinct
            format('role %s has more than SELECT on %s', g.name, c.oid::regclass),
            format(
                'revoke all on %s %s from %s',
                case when c.relkind = 'S' then 'sequence' else 'table' end,
                c.oid::regclass,
                g.name
            )
        from pg_class c
        cross join aclexplode(c.relacl) as a
        cross join lateral (
            select case when a.grantee = 0 then 'public' else quote_ident(pg_get_userbyid(a.grantee)) end
        ) as g (name)
        where c.relnamespace = v_schema
            and c.relowner = v_owner
            and c.relkind in ('r', 'p', 'S')
            and starts_with(c.relname, 'queue_')
            and a.privilege_type not in ('SELECT', 'MAINTAIN')
            and (a.grantee = 0 or a.grantee not in (select t.role from trusted t))
    )
    select s.problem, s.remedy from stranger s order by s.problem;
end
$$;

comment on function _queue_strangers is
    'Private: who may make, or has made, functions or operators in the queue''s schema that the queue''s functions could take for PostgreSQL''s own, and run with the rights of their owner; and who may write to its tables.';

revoke all on function _queue_strangers from public;
