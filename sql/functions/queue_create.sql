create or replace function queue_create(
    queue text
)
returns boolean
language plpgsql
volatile
security definer
set search_path from current
as $$
#variable_conflict use_column
begin
    if octet_length(queue_create.queue) between 1 and 255 is not true then
        perform _queue_refuse_name(queue_create.queue);
    end if;
    insert into queue_setting (queue) values (queue_create.queue) on conflict (queue) do nothing;
    return found;
end
$$;

comment on function queue_create is $$
Create a queue by name, so that it is known (to `queue_stats`, for example) before its first
job comes. Nothing else needs it: a put makes its queue.

**queue**: name of the queue, 1 to 255 bytes, any character but NUL.

Returns true if the queue was not known by name before.

Errors: 22023 for a bad name.

    select queue_create('apples');
$$;

revoke all on function queue_create from public;
