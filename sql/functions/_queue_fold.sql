create or replace function _queue_fold(
    queue text,
    force boolean default false,
    guarded boolean default false
)
returns integer
language plpgsql
volatile
set search_path from current
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_sort = off
set jit = off
as $$
#variable_conflict use_column
declare
    v_begin timestamptz := clock_timestamp();
    v_excess float8;
    v_rows tid[];
    v_sum record;
    v_id bigint;
begin
    -- When this session folds again, in seconds since 1970; as text, since anybody may set it.
    if not _queue_fold.force
        and coalesce(current_setting('pgq_py.fold_after', true), '') collate "C" > extract(epoch from v_begin)::text
    then
        return 0;
    end if;
    -- Above READ COMMITTED a row that somebody else has folded since the snapshot is an error (40001). SERIALIZABLE
    -- makes that of what was only read, and of a put as well: there queue_maintain folds, now and then.
    if current_setting('transaction_isolation') <> 'read committed' and not _queue_fold.guarded then
        if current_setting('transaction_isolation') = 'serializable' and not _queue_fold.force then
            return 0;
        end if;
        begin
            return _queue_fold(_queue_fold.queue, _queue_fold.force, guarded => true);
        exception
            when serialization_failure then
                perform set_config('pgq_py.fold_after', (extract(epoch from v_begin) + 1)::text, false);
                return 0;
        end;
    end if;
    -- Nothing here waits: what another transaction is folding is left to it. If that one is
    -- rolled back it has been folded by nobody, and is there for the next.
    v_rows := array(
        select t.ctid from queue_tally t where t.queue = _queue_fold.queue limit 10000 for update skip locked
    );
    if v_rows <> '{}' then
        with gone as (
            delete from queue_tally t where t.queue = _queue_fold.queue and t.ctid = any (v_rows) returning t.*
        )
        select
            coalesce(sum(g.put), 0) as put,
            coalesce(sum(g.taken), 0) as taken,
            coalesce(sum(g.completed), 0) as completed,
            coalesce(sum(g.failed), 0) as failed,
            coalesce(sum(g.moved), 0) as moved,
            coalesce(sum(g.dead), 0) as dead,
            coalesce(sum(g.died), 0) as died
        into v_sum
        from gone g;
        select t.id
        into v_id
        from queue_total t
        where t.queue = _queue_fold.queue
        order by t.id
        limit 1
        for update skip locked;
        if found then
            update queue_total t
            set put = t.put + v_sum.put,
                taken = t.taken + v_sum.taken,
                completed = t.completed + v_sum.completed,
                failed = t.failed + v_sum.failed,
                moved = t.moved + v_sum.moved,
                dead = t.dead + v_sum.dead,
                died = t.died + v_sum.died
            where t.queue = _queue_fold.queue and t.id = v_id;
        else
            insert into queue_total (queue, put, taken, completed, failed, moved, dead, died)
            values (
                _queue_fold.queue, v_sum.put, v_sum.taken, v_sum.completed, v_sum.failed, v_sum.moved, v_sum.dead,
                v_sum.died
            );
        end if;
    end if;
    -- While an old snapshot is held open, folded rows stay to be walked over by the next. What
    -- took longer than the rows that were folded are worth is no more than a hundredth of the
    -- session's time.
    v_excess := extract(epoch from clock_timestamp() - v_begin) - 0.001 - 0.00002 * cardinality(v_rows);
    if v_excess > 0 and not _queue_fold.force then
        perform set_config('pgq_py.fold_after', (extract(epoch from v_begin) + 100 * v_excess)::text, false);
    end if;
    return cardinality(v_rows);
end
$$;

comment on function _queue_fold is
    'Private: add up to 10,000 rows of queue_tally to the queue''s totals, and remove them. Gives their number. Waits for nobody, and does nothing where others have folded since the snapshot of a transaction above READ COMMITTED, nor, unless by FORCE, at SERIALIZABLE or where this session has lately spent much time on it. GUARDED is for itself.';

revoke all on function _queue_fold from public;
