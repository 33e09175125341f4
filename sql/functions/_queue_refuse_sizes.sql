create or replace function _queue_refuse_sizes(
    name text,
    given integer,
    wanted integer
)
returns void
language plpgsql
stable
set search_path from current
as $$
begin
    raise exception using
        errcode = 'array_subscript_error',
        message = format(
            '%s %s are given for %s jobs', coalesce(given::text, 'no'), name, coalesce(wanted::text, 'no')
        ),
        hint = 'Give one for each job.';
end
$$;

comment on function _queue_refuse_sizes is
    'Private: the error for arrays of different lengths (2202E).';

revoke all on function _queue_refuse_sizes from public;
