create or replace function _queue_is_large(
    data jsonb
)
returns boolean
language sql
stable
-- As _queue_key. A number of 12 bytes can be a text of 147,456, so what has no more than this has 503 MB at most.
-- Of what was compressed, in the table that it comes from, the size says nothing.
return pg_column_size(data) > 40960 or pg_column_compression(data) is not null;

comment on function _queue_is_large is
    'Private: whether JSON could be too large as text; then _queue_check_json tells.';

revoke all on function _queue_is_large from public;
