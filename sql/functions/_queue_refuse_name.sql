create or replace function _queue_refuse_name(
    queue text
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
            when queue is null then 'the name of a queue is missing'
            when queue = '' then 'the name of a queue is empty'
            else format('the name of a queue has %s bytes, over the limit of 255', octet_length(queue))
        end,
        hint = 'A queue is named by 1 to 255 bytes of text.';
end
$$;

comment on function _queue_refuse_name is
    'Private: the error for a name of a queue that is missing, empty or over 255 bytes (22023). The callers test, so that a good name costs no call.';

revoke all on function _queue_refuse_name from public;
