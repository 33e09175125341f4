create or replace function _queue_class()
returns integer
language sql
stable
-- As _queue_key.
return (cast(cast(cast('queue_job' as regclass) as oid) as bigint) - 2147483648)::integer;

comment on function _queue_class is
    'Private: the first half of advisory locks of this installation. With 0 to 63: held, shared, by transactions that make jobs of some queues ready. With 64: by sessions that sleep on many queues.';

revoke all on function _queue_class from public;
