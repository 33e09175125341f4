create or replace function _queue_check_limits(
    queue text,
    bytes integer,
    count bigint
)
returns void
language plpgsql
volatile
set search_path from current
set enable_seqscan = off
as $$
#variable_conflict use_column
declare
    v_max_bytes integer;
    v_max_depth bigint;
    v_depth bigint;
begin
    select s.max_bytes, s.max_depth
    into v_max_bytes, v_max_depth
    from queue_setting s
    where s.queue = _queue_check_limits.queue;
    if bytes > v_max_bytes then
        raise exception using
            errcode = 'QU002',
            message = format('the data have %s bytes, and queue %I takes %s at most', bytes, queue, v_max_bytes),
            hint = 'Put less, or where to find it; or raise max_bytes with queue_create.';
    end if;
    if v_max_depth is null or count = 0 then
        return;
    end if;
    v_depth := (
        select count(*)
        from (select from queue_job j where j.queue = _queue_check_limits.queue limit v_max_depth) j
    );
    if v_depth + count > v_max_depth then
        raise exception using
            errcode = 'QU001',
            message = format(
                'queue %I is full: it holds %s jobs of at most %s, and %s more were put',
                queue, v_depth, v_max_depth, count
            ),
            hint = 'Put again when some are done; or raise max_depth with queue_create.';
    end if;
end
$$;

comment on function _queue_check_limits is
    'Private: refuse COUNT more jobs, the largest of BYTES bytes, where a queue has limits: QU001 for one that is full, QU002 for data that are too large.';

revoke all on function _queue_check_limits from public;
