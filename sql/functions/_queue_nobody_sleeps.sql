create or replace function _queue_nobody_sleeps(
    queue text
)
returns boolean
language sql
volatile
-- As _queue_key.
return
    -- First of all: whoever falls asleep later sees by this lock that we are not done, and looks again.
    -- Of 64 locks, or a transaction that puts into 10,000 queues would fill the table of locks.
    pg_try_advisory_xact_lock_shared(_queue_class(), (hashtextextended(queue, 0) & 63)::integer)
    -- No session is kept out by its own locks.
    and coalesce(current_setting('pgq_py.listening', true), '') = ''
    -- Nothing can interrupt between the two halves of each.
    and pg_try_advisory_lock(_queue_class(), 64) and pg_advisory_unlock(_queue_class(), 64)
    and pg_try_advisory_lock(_queue_key(queue)) and pg_advisory_unlock(_queue_key(queue));

comment on function _queue_nobody_sleeps is
    'Private: whether no session sleeps on the queue that would have to be notified when this transaction commits.';

revoke all on function _queue_nobody_sleeps from public;
