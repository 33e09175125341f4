-- Runs before the migrations, in their transaction. `pgq_py.schema` names the schema to migrate.
do $$
declare
    v_schema text := current_setting('pgq_py.schema');
    v_extension text;
begin
    -- Whoever migrates the same schema at the same time waits here, and then finds it done.
    perform pg_advisory_xact_lock(hashtextextended('pgq_py migrates ' || v_schema, 0));

    select e.extname
    into v_extension
    from pg_extension e
    join pg_depend d
        on d.refclassid = 'pg_extension'::regclass and d.refobjid = e.oid
        and d.classid = 'pg_class'::regclass and d.deptype = 'e'
    where d.objid = to_regclass(format('%I.queue_job', v_schema));
    if found then
        raise exception using
            errcode = 'object_not_in_prerequisite_state',
            message = format('the queue in schema "%s" belongs to the extension %s', v_schema, v_extension),
            hint = format('Upgrade it with ALTER EXTENSION %s UPDATE, remove it with DROP EXTENSION.', v_extension);
    end if;

    if to_regnamespace(quote_ident(v_schema)) is null then
        execute format('create schema %I', v_schema);
        -- after.sql looks for this mark, and drops no schema that somebody else made.
        execute format('comment on schema %I is %L', v_schema, 'Made by pgq_py, for the queue.');
    end if;

    -- As CREATE EXTENSION does it. Without pg_temp at the end a temporary table would come first.
    perform set_config('pgq_py.outer_search_path', current_setting('search_path'), true);
    perform set_config('search_path', quote_ident(v_schema) || ', pg_temp', true);
end
$$;
