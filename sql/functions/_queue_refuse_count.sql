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
        hint = case
            when count > 0 then 'Put or take 100,000 jobs at most in one call; a transaction may have many calls.'
            else 'Ask for at least one job.'
        end;
end
$$;

comment on function _queue_refuse_count is
    'Private: the error for a count of jobs that is null, below 1 or above 100,000 (22023).';

revoke all on function _queue_refuse_count from public;
