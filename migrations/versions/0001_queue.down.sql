-- The way back from 0001: nothing of the queue remains, the jobs included.
drop table queue_job, queue_dead, queue_setting;

-- Below this line `make sql` copies from sql/functions; edit the functions there.

drop function _queue_check_limits;
drop function _queue_count_attempt;
drop function _queue_fail;
drop function _queue_find;
drop function _queue_pick;
drop function _queue_promote;
drop function _queue_refuse_count;
drop function _queue_refuse_lease;
drop function _queue_refuse_name;
drop function _queue_refuse_sizes;
drop function _queue_time;
drop function queue_bury;
drop function queue_cancel;
drop function queue_channel;
drop function queue_clear;
drop function queue_complete;
drop function queue_complete_many;
drop function queue_count;
drop function queue_create;
drop function queue_dead_delete;
drop function queue_dead_list;
drop function queue_drop;
drop function queue_error;
drop function queue_error_many;
drop function queue_get;
drop function queue_get_any;
drop function queue_health;
drop function queue_lease;
drop function queue_lease_any;
drop function queue_list;
drop function queue_pause;
drop function queue_progress;
drop function queue_progress_many;
drop function queue_put;
drop function queue_put_many;
drop function queue_redrive;
drop function queue_release;
drop function queue_release_many;
drop function queue_resume;
drop function queue_settings;
drop function queue_stats;
drop function queue_update;
drop function queue_version;
drop function queue_wait;
