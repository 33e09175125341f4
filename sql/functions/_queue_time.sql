create or replace function _queue_time(
    name text,
    at timestamptz,
    after interval,
    reference timestamptz
)
returns timestamptz
language plpgsql
stable
set search_path from current
as $$
begin
    if at is not null and after is not null then
        raise exception using
            errcode = 'invalid_parameter_value',
            message = format('both %s_at and %s_in are given', name, name),
            hint = 'Give the time, or how long from now, but not both.';
    end if;
    at := coalesce(at, reference + after);
    if not isfinite(at) then
        raise exception using
            errcode = 'datetime_field_overflow',
            message = format('%s_at is infinite', name),
            hint = 'Give a finite time, or none at all.';
    end if;
    return at;
end
$$;

comment on function _queue_time is
    'Private: the moment that NAME_at or NAME_in mean. Both given: 22023. Infinite: 22008.';

revoke all on function _queue_time from public;
