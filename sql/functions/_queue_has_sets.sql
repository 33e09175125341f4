create or replace function _queue_has_sets()
returns boolean
language sql
stable
-- As _queue_key. Before PostgreSQL 17 `id = any (ids)`, planned while the table was empty, is a filter
-- on a walk through the whole queue.
return cast(current_setting('server_version_num') as integer) >= 170000;

comment on function _queue_has_sets is
    'Private: whether the server finds rows by an array of ids along the index, whatever its statistics; otherwise one by one.';

revoke all on function _queue_has_sets from public;
