create or replace function _queue_channel(
    queue text
)
returns text
language sql
stable
-- As _queue_key; the schema is that of the function which this becomes a part of.
-- Hashed because LISTEN cuts names after 63 bytes in silence, and pg_notify refuses them.
return 'queue_' || to_hex(hashtextextended(current_schema() || '.' || queue collate "C", 0));

comment on function _queue_channel is
    'Private: as queue_channel, for a name that is known to be good.';

revoke all on function _queue_channel from public;
