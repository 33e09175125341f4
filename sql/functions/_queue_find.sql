create or replace function _queue_find(
    queue text,
    dedupe_key text
)
returns bigint
language plpgsql
volatile
set search_path from current
set enable_seqscan = off
as $$
begin
    return (
        select j.id
        from queue_job j
        where j.queue = _queue_find.queue and j.dedupe_key = _queue_find.dedupe_key
    );
end
$$;

comment on function _queue_find is
    'Private: the id of the live job with this dedupe_key, null if there is none.';

revoke all on function _queue_find from public;
