-- The queue from plain psql:
--
--     psql -v ON_ERROR_STOP=1 -f examples/psql/tour.sql
--
-- The schema must be installed. The tour uses the queue `tour`, and drops it at the end.

\set QUIET on
\pset format unaligned
\pset tuples_only on

\echo '* Put a job; the queue needs no making.'
select queue_put('tour', '{"file": "a.txt"}') > 0;

\echo '* One that is more urgent, one for later, and a batch.'
select queue_put('tour', '{"file": "urgent.txt"}', priority => 10) > 0;
select queue_put('tour', '{"file": "tomorrow.txt"}', schedule_in => '1 day') > 0;
select count(*) from queue_put_many('tour', array['{"file": "b.txt"}', '{"file": "c.txt"}']::jsonb[]);

\echo '* The same key twice is one job.'
select queue_put('tour', dedupe_key => 'nightly') = queue_put('tour', dedupe_key => 'nightly');

\echo '* What is there: ready, scheduled.'
select ready, scheduled from queue_stats('tour');

\echo '* Take one, and write its result in the same transaction.'
begin;
create temporary table result (id bigint, file text);
insert into result select id, data->>'file' from queue_get('tour');
commit;
select file from result;

\echo '* A rollback returns the job.'
begin;
select data->>'file' from queue_get('tour');
rollback;
select data->>'file' from queue_list('tour', count => 1);

\echo '* How long may a consumer sleep? Until tomorrow, or until it is notified.'
select queue_wait('tour') between '23 hours' and '24 hours';
select format('listen %I', queue_channel('tour')) \gexec
unlisten *;

\echo '* A paused queue gives nothing.'
select queue_pause('tour');
select count(*) from queue_get('tour');
select queue_resume('tour');

\echo '* Take all that is ready, two at a time.'
select data->>'file' from queue_get('tour', 2);
select data->>'file' from queue_get('tour', 2);
select count(*) from queue_get('tour', 2);

\echo '* Remove the rest.'
select queue_clear('tour');
select queue_drop('tour');
