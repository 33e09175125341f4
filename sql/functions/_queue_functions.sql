create or replace function _queue_functions()
returns table (
    name text,
    privileges text[]
)
language sql
stable
rows 40
set search_path from current
as $$
    values
        ('queue_put', '{put}'::text[]),
        ('queue_put_many', '{put}'),

        ('queue_get', '{get}'),
        ('queue_get_any', '{get}'),
        ('queue_lease', '{get}'),
        ('queue_lease_any', '{get}'),
        ('queue_complete', '{get}'),
        ('queue_complete_many', '{get}'),
        ('queue_error', '{get}'),
        ('queue_error_many', '{get}'),
        ('queue_release', '{get}'),
        ('queue_release_many', '{get}'),
        ('queue_progress', '{get}'),
        ('queue_progress_many', '{get}'),
        ('queue_bury', '{get}'),
        ('queue_channel', '{get}'),
        ('queue_listen', '{get}'),
        ('queue_unlisten', '{get}'),
        -- With the receipt of a lease; without one it takes manage.
        ('queue_update', '{get, manage}'),
        ('queue_wait', '{get, observe, manage}'),

        ('queue_list', '{observe, manage}'),
        ('queue_count', '{observe, manage}'),
        ('queue_stats', '{observe, manage}'),
        ('queue_dead_list', '{observe, manage}'),
        -- To take takes manage.
        ('queue_export', '{observe, manage}'),
        ('queue_settings', '{observe, manage}'),
        ('queue_metrics', '{observe, manage}'),
        -- Of all queues, and so is queue_maintain.
        ('queue_health', '{observe, manage}'),

        ('queue_create', '{manage}'),
        ('queue_drop', '{manage}'),
        ('queue_pause', '{manage}'),
        ('queue_resume', '{manage}'),
        ('queue_clear', '{manage}'),
        ('queue_cancel', '{manage}'),
        ('queue_redrive', '{manage}'),
        ('queue_dead_delete', '{manage}'),
        ('queue_import', '{manage}'),
        ('queue_maintain', '{manage}'),

        ('queue_version', '{put, get, observe, manage}'),
        ('queue_rights', '{put, get, observe, manage}')
$$;

comment on function _queue_functions is
    'Private: the functions that can be granted, each with the privileges of which one suffices. The others are for the owner alone.';

revoke all on function _queue_functions from public;
