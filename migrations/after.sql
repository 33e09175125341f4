-- Runs after the migrations, in their transaction: gives back to roles what migrations have taken from them.
-- When nothing of the queue is left, the notes go too: the table of the version, and the schema, if before.sql
-- made it and nobody else uses it.
do $$
declare
    v_schema text := current_setting('pgq_py.schema');
    v_installed boolean := false;
    v_grantee text;
begin
    perform set_config('search_path', current_setting('pgq_py.outer_search_path'), true);
    if to_regclass(format('%I.queue_migration', v_schema)) is not null then
        execute format('select exists (select from %I.queue_migration)', v_schema) into v_installed;
    end if;
    if v_installed then
        -- A function that was dropped and made anew has lost its grants, and a new one has none.
        if to_regprocedure(format('%I._queue_align(regrole)', v_schema)) is not null then
            execute format('select %I._queue_align()', v_schema);
        end if;
        -- As at the end of schema.sql, which may run before this table is made.
        for v_grantee in
            select distinct case when a.grantee = 0 then 'public' else quote_ident(pg_get_userbyid(a.grantee)) end
            from pg_class c
            cross join aclexplode(c.relacl) a
            where c.oid = to_regclass(format('%I.queue_migration', v_schema)) and a.grantee <> c.relowner
        loop
            execute format('revoke all on table %I.queue_migration from %s', v_schema, v_grantee);
        end loop;
        return;
    end if;
    execute format('drop table if exists %I.queue_migration', v_schema);
    if obj_description(to_regnamespace(quote_ident(v_schema)), 'pg_namespace') = 'Made by pgq_py, for the queue.' then
        begin
            execute format('drop schema %I', v_schema);
        exception
            when dependent_objects_still_exist then null;
        end;
    end if;
end
$$;
