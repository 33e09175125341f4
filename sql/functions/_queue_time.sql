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
    -- Not the sum of them, which would leave the calendar with an error that names nothing. Infinity is beyond, too.
    if not after between interval '-5000 years' and interval '10000 years' then
        raise exception using
            errcode = 'datetime_field_overflow',
            message = format('%s_in is %s', name, after),
            hint = 'Give a time no later than the year 9999.';
    end if;
    at := coalesce(at, reference + after);
    if not isfinite(at) then
        raise exception using
            errcode = 'datetime_field_overflow',
            message = format('%s_at is infinite', name),
            hint = 'Give a finite time, or none at all.';
    end if;
    -- The last year that clients of all languages can read. Milliseconds taken for seconds end far beyond it.
    if at >= timestamptz '10000-01-01 00:00+00' then
        raise exception using
            errcode = 'datetime_field_overflow',
            message = format('%s_at is %s', name, at),
            hint = 'Give a time no later than the year 9999.';
    end if;
    return at;
end
$$;

comment on function _queue_time is
    'Private: the moment that NAME_at or NAME_in mean. Both given: 22023. Infinite, or after the year 9999: 22008.';

revoke all on function _queue_time from public;
