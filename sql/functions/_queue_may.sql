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
    -- USAGE and not MEMBER: as everywhere in PostgreSQL, who does not inherit the rights of a group has them after
    -- SET ROLE.
    return exists (
            select
            from queue_right r
            where r.queue in ('', _queue_may.queue)
                and r.privilege = any (_queue_may.privileges)
                and pg_has_role(_queue_caller(), r.role, 'usage')
        )
        or pg_has_role(_queue_caller(), current_user, 'usage');
end
$$;

comment on function _queue_may is
    'Private: whether the caller has one of these privileges on a queue, or, for the empty name, on all queues. The owner of the functions, who has them all, is current_user: called by others this says nothing.';

revoke all on function _queue_may from public;
