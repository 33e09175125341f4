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
    -- Above READ COMMITTED two may be seen: one that was taken after the snapshot was made, and the
    -- one that this transaction has put since. The later id is the one that is there. OFFSET keeps
    -- max from becoming a walk along the primary key.
    return (
        select max(f.id)
        from (
            select j.id
            from queue_job j
            where j.queue = _queue_find.queue and j.dedupe_key = _queue_find.dedupe_key
            offset 0
        ) f
    );
end
$$;

comment on function _queue_find is
    'Private: the id of the live job with this dedupe_key, null if there is none.';

revoke all on function _queue_find from public;
