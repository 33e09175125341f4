create or replace function _queue_refuse_lease(
    lease interval
)
returns void
language plpgsql
stable
set search_path from current
as $$
begin
    if not isfinite(lease) then
        raise exception using
            errcode = 'datetime_field_overflow',
            message = format('the lease is %s', lease),
            hint = 'A lease has an end, or the job of a consumer that is gone would never come back.';
    end if;
    if lease > interval '10 years' then
        raise exception using
            errcode = 'datetime_field_overflow',
            message = format('the lease is %s', lease),
            hint = 'A lease lasts for 10 years at most; queue_progress extends it.';
    end if;
    raise exception using
        errcode = 'invalid_parameter_value',
        message = format('the lease is %s', coalesce(lease::text, 'null')),
        hint = 'A lease lasts longer than nothing: give an interval above zero.';
end
$$;

comment on function _queue_refuse_lease is
    'Private: the error for a lease that is not above zero (22023), above 10 years or without end (22008).';

revoke all on function _queue_refuse_lease from public;
