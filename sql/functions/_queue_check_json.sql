create or replace function _queue_check_json(
    data jsonb
)
returns void
language plpgsql
stable
set search_path from current
as $$
declare
    v_bytes integer := 1073741823;
begin
    begin
        v_bytes := octet_length(data::text);
    exception
        when program_limit_exceeded then null;  -- more than can be a text at all
    end;
    if v_bytes > 536870911 then
        raise exception using
            errcode = 'QU002',
            message = format('the data have %s bytes as text, and a job takes 536870911 at most', v_bytes),
            hint = 'Put where to find it; or give large numbers and control characters as another text.';
    end if;
end
$$;

comment on function _queue_check_json is
    'Private: refuse JSON that is too large as text (QU002): a number of 12 bytes, 1e131071, is one of 131,072 there. What has more than 1 GB can''t be sent. Each take would fail, and the job be at the head again.';

revoke all on function _queue_check_json from public;
