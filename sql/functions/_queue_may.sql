create or replace function _queue_may(
    queue text,
    variadic privileges text[]
)
returns boolean
language plpgsql
volatile
set search_path from current
as $$
begin
    -- Who maintains a table (ANALYZE, REINDEX, REFRESH MATERIALIZED VIEW) evaluates the functions of its owner, and so
    -- would lend him its rights on queues. PostgreSQL does not tell us, but refuses this there (42501). It costs 2 us.
    begin
        prepare pgq_py_not_in_maintenance as select;
    exception
        -- Left by a call that was cancelled just here: no rollback takes it away, and all later calls would fail.
        when duplicate_prepared_statement then null;
    end;
    deallocate pgq_py_not_in_maintenance;
    -- USAGE and not MEMBER: as everywhere in PostgreSQL, who does not inherit the rights of a group has them after
    -- SET ROLE.
    return exists (
            select
            from queue_right r
            where r.queue in ('', _queue_may.queue)
                and r.privilege = any (_queue_may.privileges)
                and pg_has_role(_queue_caller(), r.role, 'usage')
        )
        or coalesce(pg_has_role(_queue_caller(), current_user, 'usage'), false);
end
$$;

comment on function _queue_may is
    'Private: whether the caller has one of these privileges on a queue, or, for the empty name, on all queues. The owner of the functions, who has them all, is current_user: called by others this says nothing.';

revoke all on function _queue_may from public;
