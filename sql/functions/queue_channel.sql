create or replace function queue_channel(
    queue text
)
returns text
language plpgsql
stable
security definer
set search_path from current
as $$
begin
    if octet_length(queue) between 1 and 255 is not true then
        perform _queue_refuse_name(queue);
    end if;
    -- Hashed because LISTEN cuts names after 63 bytes in silence, and pg_notify refuses them.
    return 'queue_' || to_hex(hashtextextended(current_schema() || '.' || queue collate "C", 0));
end
$$;

comment on function queue_channel is $$
The notification channel of a queue, to be given to LISTEN.

A put into the queue notifies this channel when it commits, with an empty payload. The
name is made from the schema and the queue by a hash; two queues that share one cause
needless wake-ups, nothing else. It may differ between servers: ask for it, don't store it.

Waiting for a job without a gap, in this order: LISTEN (committed), `queue_wait`,
`queue_get`; when that returned nothing, sleep until a notification or for as long as
`queue_wait` said, whichever comes first, but no longer than a few seconds.

**queue**: name of the queue.

Returns the name, 63 bytes at most.

Errors: 22023 for a bad name.

    select format('listen %I', queue_channel('apples')) \gexec
$$;

revoke all on function queue_channel from public;
