create or replace function _queue_caller()
returns text
language sql
stable
-- As _queue_key. Inside our functions current_user is their owner. Who calls is the role that was set with
-- SET ROLE (as gateways do that connect as one role for all), or else whoever connected: nobody in autovacuum, which
-- evaluates the functions in anybody's index, and whose session_user is a superuser. Elsewhere session_user is right,
-- and the setting is the name of before where the role was renamed since: by now another may have it.
return coalesce(
    nullif(current_setting('role'), 'none'),
    case when current_setting('session_authorization') <> '' then cast(session_user as text) end
);

comment on function _queue_caller is
    'Private: the role that calls, in a function that runs with the rights of the owner; null where no client does.';

revoke all on function _queue_caller from public;
