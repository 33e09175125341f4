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
select queue_listen('tour') = queue_channel('tour');
select queue_wait('tour') between '23 hours' and '24 hours';
select queue_unlisten('tour') is not null;

\echo '* A paused queue gives nothing.'
select queue_pause('tour');
select count(*) from queue_get('tour');
select queue_resume('tour');

\echo '* Lease one: it is held for a time, in no transaction. Its receipt is good once.'
select queue_put('tour', '{"file": "long.txt"}', priority => 10) > 0;
select id, receipt, data->>'file' as file from queue_lease('tour', lease => '10 minutes', consumer => 'psql') \gset
select :'file';
select queue_progress('tour', :id, :'receipt', 50);
select queue_complete('tour', :id, :'receipt');
select queue_complete('tour', :id, :'receipt');

\echo '* One that fails comes back after a pause, here of nothing. Out of attempts, it is among the dead.'
select queue_put('tour', '{"file": "bad.txt"}', priority => 10, max_attempts => 2) > 0;
select queue_error('tour', id, receipt, 'a worm', retry_in => '0') from queue_lease('tour');
select attempts, last_error, queue_error('tour', id, receipt, 'a wasp') from queue_lease('tour');
select data->>'file', reason, jsonb_array_length(history) from queue_dead_list('tour');

\echo '* The dead can be put back.'
select queue_redrive('tour', reason_like => '%wasp%');
select data->>'file' from queue_get('tour');

\echo '* Take all that is ready, two at a time.'
select data->>'file' from queue_get('tour', 2);
select data->>'file' from queue_get('tour', 2);
select count(*) from queue_get('tour', 2);

\echo '* Remove the rest.'
select queue_clear('tour');
select queue_drop('tour');
