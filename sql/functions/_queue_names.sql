create or replace function _queue_names()
returns setof text
language plpgsql
volatile
set search_path from current
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_sort = off
set jit = off
as $$
declare
    v_name text collate "C" := '';
begin
    -- From each name to the next one, in each table: the number of rows doesn't matter.
    loop
        v_name := least(
            (select j.queue from queue_job j where j.queue > v_name order by j.queue limit 1),
            (select d.queue from queue_dead d where d.queue > v_name order by d.queue limit 1),
            (select s.queue from queue_setting s where s.queue > v_name order by s.queue limit 1),
            (select t.queue from queue_total t where t.queue > v_name order by t.queue limit 1),
            (select t.queue from queue_tally t where t.queue > v_name order by t.queue limit 1)
        );
        exit when v_name is null;
        return next v_name;
    end loop;
end
$$;

comment on function _queue_names is
    'Private: the names of all queues that have jobs, dead jobs, settings or totals, sorted by their bytes. The time grows with the number of queues, not of jobs.';

revoke all on function _queue_names from public;
