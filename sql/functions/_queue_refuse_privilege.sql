create or replace function _queue_refuse_privilege(
    privilege text
)
returns void
language plpgsql
stable
set search_path from current
as $$
begin
    raise exception using
        errcode = 'invalid_parameter_value',
        message = case
            when privilege is null then 'the privilege is missing'
            else format('there is no privilege %L', privilege)
        end,
        hint = 'The privileges are put, get, observe and manage.';
end
$$;

comment on function _queue_refuse_privilege is
    'Private: the error for a privilege that there is not (22023).';

revoke all on function _queue_refuse_privilege from public;
