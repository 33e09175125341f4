create or replace function queue_version()
returns text
language sql
stable
security definer
set search_path from current
as $$
    select '0001'
$$;

comment on function queue_version is $$
The version of the installed schema: the number that is at once the alembic revision and the
version of the extension.

Returns four digits.

    select queue_version();
$$;

revoke all on function queue_version from public;
