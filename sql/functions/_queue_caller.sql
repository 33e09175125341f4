create or replace function _queue_caller()
returns text
language sql
stable
-- As _queue_key. Inside our functions current_user is their owner. Who calls is the role that was set with
-- SET ROLE (as gateways do that connect as one role for all), or else whoever connected.
return coalesce(nullif(current_setting('role'), 'none'), session_user);

comment on function _queue_caller is
    'Private: the role that calls, in a function that runs with the rights of the owner.';

revoke all on function _queue_caller from public;
