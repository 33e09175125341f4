create or replace function _queue_refuse_count(
    count integer
)
returns void
language plpgsql
stable
set search_path from current
as $$
begin
    raise exception using
        errcode = 'invalid_parameter_value',
        message = format('count is %s', coalesce(count::text, 'null')),
        hint = 'Ask for at least one job.';
end
$$;

comment on function _queue_refuse_count is
    'Private: the error for a count of jobs that is null or below 1 (22023).';

revoke all on function _queue_refuse_count from public;
