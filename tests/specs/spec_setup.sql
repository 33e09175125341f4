-- What the specs call, beside the functions of the queue: each call notes in spec_ledger what it was answered, in the
-- same transaction. So the ledger holds what sessions were told and committed.

create table spec_ledger (who text not null, what text not null, id bigint, answer boolean, receipt uuid);

-- The clock of the specs: the server's, put forward by hours. A sequence, because the clock waits for nobody and is not
-- rolled back.
create sequence spec_hours;

create function spec_clock() returns timestamptz language sql volatile as $$
    select clock_timestamp() + coalesce(pg_sequence_last_value('public.spec_hours'), 0) * interval '1 hour'
$$;

do $$
declare
    v_definition text;
begin
    for v_definition in
        select replace(pg_get_functiondef(oid), 'clock_timestamp()', 'spec_clock()')
        from pg_proc
        where pronamespace = 'public'::regnamespace and proname ~ '^_?queue_' and prosrc ~ 'clock_timestamp\(\)'
    loop
        execute v_definition;
    end loop;
end
$$;

create function spec_reset(jobs integer default 0) returns void language plpgsql as $$
begin
    delete from queue_job;
    delete from queue_dead;
    delete from queue_tally;
    delete from queue_total;
    delete from spec_ledger;
    perform setval('queue_job_id_seq', 1, false), setval('spec_hours', 1, false);
    perform queue_put('apples', to_jsonb(n)) from generate_series(1, jobs) n;
end
$$;

create function spec_receipt(id bigint) returns uuid language sql immutable as $$
    select ('00000000-0000-0000-0000-' || lpad(id::text, 12, '0'))::uuid
$$;

-- Leased for half an hour, by somebody who knows the receipt beforehand.
create function spec_hold(id bigint) returns void language sql as $$
    update queue_job j
    set attempts = 1, receipt = spec_receipt(j.id), ready_at = now() + interval '30 m', lease_until = now() + interval '30 m'
    where j.queue = 'apples' and j.id = spec_hold.id
$$;

create function spec_note(who text, what text, id bigint, answer boolean default null) returns bigint language sql as $$
    insert into spec_ledger (who, what, id, answer) values (who, what, id, answer) returning id
$$;

create function spec_get(who text, promote boolean default false) returns bigint language sql as $$
    with got as (select g.id from queue_get('apples', promote => spec_get.promote) g)
    insert into spec_ledger (who, what, id) select spec_get.who, 'get', g.id from got g returning id
$$;

create function spec_lease(who text) returns bigint language sql as $$
    with got as (select l.id, l.receipt from queue_lease('apples') l)
    insert into spec_ledger (who, what, id, receipt) select spec_lease.who, 'lease', g.id, g.receipt from got g returning id
$$;

create function spec_leased(who text) returns uuid language sql as $$
    select l.receipt from spec_ledger l where l.who = spec_leased.who and l.what = 'lease'
$$;

create function spec_answer(who text, what text, id bigint, answer boolean) returns boolean language sql as $$
    insert into spec_ledger (who, what, id, answer) values (who, what, id, answer) returning answer
$$;

create function spec_complete(who text, id bigint, receipt uuid) returns boolean language sql as $$
    select spec_answer(who, 'complete', id, queue_complete('apples', id, receipt))
$$;

create function spec_error(who text, id bigint, receipt uuid) returns boolean language sql as $$
    select spec_answer(who, 'error', id, queue_error('apples', id, receipt, 'a worm', retry_in => '0'))
$$;

-- As one of many: the heartbeat.
create function spec_progress(who text, id bigint, receipt uuid) returns boolean language sql as $$
    select spec_answer(who, 'progress', p.id, p.done)
    from queue_progress_many('apples', array[spec_progress.id], array[spec_progress.receipt]) p
$$;

create function spec_cancel(who text, id bigint) returns boolean language sql as $$
    select spec_answer(who, 'cancel', id, queue_cancel('apples', id))
$$;

create function spec_clear(who text) returns bigint language sql as $$
    select spec_note(who, 'clear', queue_clear('apples'))
$$;

-- The text of the next version's migration, and of its way back; the test fills it in.
create table spec_migration (direction text primary key, script text not null);

create function spec_migrated() returns boolean language sql stable as $$
    select exists (
        select from pg_attribute where attrelid = 'public.queue_job'::regclass and attname = 'note' and not attisdropped
    )
$$;

create function spec_migrate(direction text) returns text language plpgsql set search_path = public, pg_temp as $$
begin
    execute (select m.script from spec_migration m where m.direction = spec_migrate.direction);
    return direction;
end
$$;

-- Where everything is when all sessions have ended; and the totals, which must fit.
create view spec_state as
select 'job' as place, id, attempts, receipt is not null as answer, null as who, dedupe_key as what from queue_job
union all
select 'dead', id, attempts, null, null, null from queue_dead
union all
select 'ledger', id, null, answer, who, what from spec_ledger
union all
select 'totals', sum(coalesce(put, 0) - coalesce(taken, 0) + coalesce(failed, 0) + coalesce(moved, 0)), null, null, null, null
from (
    select put, taken, failed, moved from queue_tally union all select put, taken, failed, moved from queue_total
) t;
