
-- Appended by tools/make_extension.py; in a migration run by alembic it would make no sense.
--
-- Grants nothing to the roles that have rights, as migrations do at their end: what is granted here, pg_dump leaves
-- out. The next queue_maintain does.
do $$
declare
    v_owner oid;
    v_name text;
begin
    select e.extowner into v_owner from pg_extension e where e.extname = 'pgq_py';

    -- Without this pg_dump takes rows and the sequence's position for part of the extension, and leaves them out.
    for v_name in
        select c.oid::regclass
        from pg_depend d
        join pg_class c on c.oid = d.objid
        join pg_extension e on e.oid = d.refobjid
        where e.extname = 'pgq_py'
            and d.refclassid = 'pg_extension'::regclass
            and d.classid = 'pg_class'::regclass
            and d.deptype = 'e'
            and c.relkind in ('r', 'p', 'S')
    loop
        perform pg_extension_config_dump(v_name, '');
    end loop;

    -- A superuser may update an extension that is somebody else's. What the update adds belongs to that
    -- owner, as the rest does: the functions run with the rights of theirs.
    for v_name in
        select format('%s %s', case p.prokind when 'p' then 'procedure' else 'function' end, p.oid::regprocedure)
        from pg_depend d
        join pg_proc p on p.oid = d.objid
        join pg_extension e on e.oid = d.refobjid
        where e.extname = 'pgq_py'
            and d.refclassid = 'pg_extension'::regclass
            and d.classid = 'pg_proc'::regclass
            and d.deptype = 'e'
            and p.proowner <> v_owner
        union all
        select format('table %s', c.oid::regclass)
        from pg_depend d
        join pg_class c on c.oid = d.objid
        join pg_extension e on e.oid = d.refobjid
        where e.extname = 'pgq_py'
            and d.refclassid = 'pg_extension'::regclass
            and d.classid = 'pg_class'::regclass
            and d.deptype = 'e'
            and c.relkind in ('r', 'p')
            and c.relowner <> v_owner
    loop
        execute format('alter %s owner to %s', v_name, v_owner::regrole);
    end loop;
end
$$;
