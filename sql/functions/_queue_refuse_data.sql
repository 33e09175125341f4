create or replace function _queue_refuse_data(
    bytes integer
)
returns void
language plpgsql
stable
set search_path from current
as $$
begin
    raise exception using
        errcode = 'QU002',
        message = format('the data have %s bytes, and a job takes 268435455 at most', bytes),
        hint = 'Put where to find it.';
end
$$;

comment on function _queue_refuse_data is
    'Private: the error for text or bytes that are larger than the largest JSON (QU002). More can be stored, but not sent to every client: as text bytes need twice the room, and the end is at 1 GB.';

revoke all on function _queue_refuse_data from public;
