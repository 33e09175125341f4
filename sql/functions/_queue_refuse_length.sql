create or replace function _queue_refuse_length(
    name text,
    bytes integer,
    most integer
)
returns void
language plpgsql
stable
set search_path from current
as $$
begin
    raise exception using
        errcode = 'invalid_parameter_value',
        message = format('%s has %s bytes, over the limit of %s', name, bytes, most),
        hint = 'Keep it short; what is long belongs into the data.';
end
$$;

comment on function _queue_refuse_length is
    'Private: the error for an argument NAME that is too long (22023). The callers test, so that a good one costs no call.';

revoke all on function _queue_refuse_length from public;
