create or replace function queue_rights()
returns table (
    queue text,
    role text,
    privilege text,
    granted_at timestamptz
)
language plpgsql
volatile
security definer
set search_path from current
as $$
#variable_conflict use_column
declare
    -- Who may give rights sees them; and it is refused in maintenance, as the others (see _queue_may).
    v_sees_all boolean := _queue_may('', 'grant');
begin
    return query
    select nullif(r.queue, ''), pg_get_userbyid(r.role)::text, r.privilege, r.granted_at
    from queue_right r
    where v_sees_all or pg_has_role(_queue_caller(), r.role, 'usage')
    order by r.queue, 2, r.privilege;
end
$$;

comment on function queue_rights is $$
The rights that were given: all of them to the owner, to others what they have themselves or as
members of a role.

Returns one row for each right: **queue**, null for all queues; **role**; **privilege**, as in
`queue_grant`; and **granted_at**, since when.

    select * from queue_rights() where queue = 'apples' or queue is null;
$$;

revoke all on function queue_rights from public;
