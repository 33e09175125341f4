create or replace function _queue_key(
    queue text
)
returns bigint
language sql
stable
-- Parsed when it is created, so that no search_path matters, and without settings of its own: so it
-- becomes a part of the expression that calls it.
return hashtextextended(queue, cast(cast('queue_job' as regclass) as oid)::bigint);

comment on function _queue_key is
    'Private: the advisory lock that a session holds, shared, while it sleeps on a queue.';

revoke all on function _queue_key from public;
