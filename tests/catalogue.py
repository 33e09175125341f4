"""What a schema holds, as lines of text to compare: a fingerprint of an installed queue."""

from __future__ import annotations

from typing import Any

import psycopg

# The table in which migrations note the version is theirs, and no part of the queue.
QUERY = """
with
    space as (select oid, nspname, quote_ident(nspname) as quoted from pg_namespace where nspname = %(schema)s),
    relation as (
        select c.* from pg_class c join space on space.oid = c.relnamespace where c.relname not like 'queue_migration%%'
    ),
    func as (select p.* from pg_proc p join space on space.oid = p.pronamespace),
    line (kind, name, detail) as (
        select
            'relation', relname::text,
            jsonb_build_object(
                'kind', relkind, 'options', reloptions, 'persistence', relpersistence, 'security', relrowsecurity,
                'replica identity', relreplident,
                'grants', relacl::text, 'comment', obj_description(oid, 'pg_class'), 'owner', relowner::regrole
            )::text
        from relation
        union all
        select
            'column', format('%%s %%s', r.relname, row_number() over (partition by r.oid order by a.attnum)),
            jsonb_build_object(
                'name', a.attname, 'type', format_type(a.atttypid, a.atttypmod), 'not null', a.attnotnull,
                'identity', a.attidentity, 'generated', a.attgenerated, 'default', pg_get_expr(d.adbin, d.adrelid),
                'collation', a.attcollation::regcollation::text, 'storage', a.attstorage,
                'compression', a.attcompression,
                'grants', a.attacl::text, 'comment', col_description(r.oid, a.attnum)
            )::text
        from relation r
        join pg_attribute a on a.attrelid = r.oid and a.attnum > 0 and not a.attisdropped
        left join pg_attrdef d on d.adrelid = r.oid and d.adnum = a.attnum
        where r.relkind in ('r', 'p', 'v')
        union all
        select 'constraint', format('%%s %%s', r.relname, c.conname), pg_get_constraintdef(c.oid)
        from relation r join pg_constraint c on c.conrelid = r.oid
        union all
        select 'index', r.relname, pg_get_indexdef(r.oid) from relation r where r.relkind = 'i'
        union all
        select 'statistics', s.stxname, format('%%s %%s', s.stxkind, pg_get_statisticsobjdef_columns(s.oid))
        from relation r join pg_statistic_ext s on s.stxrelid = r.oid
        union all
        select 'trigger', t.tgname, pg_get_triggerdef(t.oid)
        from relation r join pg_trigger t on t.tgrelid = r.oid where not t.tgisinternal
        union all
        select
            'function', format('%%s(%%s)', f.proname, pg_get_function_identity_arguments(f.oid)),
            jsonb_build_object(
                'definition', pg_get_functiondef(f.oid), 'grants', f.proacl::text, 'owner', f.proowner::regrole,
                'comment', obj_description(f.oid, 'pg_proc'), 'cost', f.procost, 'rows', f.prorows
            )::text
        from func f
        union all
        select 'type', t.typname, t.typtype::text
        from pg_type t join space on space.oid = t.typnamespace
        where t.typrelid = 0 and t.typelem = 0
    )
select format('%%s %%s: %%s', line.kind, line.name, line.detail), space.quoted
from line, space
order by line.kind, line.name
"""


def fingerprint(conn: psycopg.Connection[Any], schema: str = "public") -> list[str]:
    """One line for each table, column, constraint, index, function: all that two installations must share.

    The schema's own name is replaced.
    """

    def normal(line: str, quoted: str) -> str:
        for name in (quoted, quoted.replace('"', '\\"')):
            line = line.replace(f"{name}.", "SCHEMA.")
        return line.replace(f"TO '{schema}', 'pg_temp'", "TO SCHEMA")

    # Parsed bodies are shown with the schema's name where the schema is not on the path: so it is on none.
    path = conn.execute("select current_setting('search_path'), set_config('search_path', '', false)").fetchone()
    assert path is not None
    lines = [normal(*row) for row in conn.execute(QUERY, {"schema": schema}).fetchall()]
    conn.execute("select set_config('search_path', %s, false)", [path[0]])
    return lines


def everything(conn: psycopg.Connection[Any]) -> set[str]:
    """All schemas, and all that is in them: to see that nothing stays behind."""
    rows = conn.execute(
        """
        select 'schema ' || nspname from pg_namespace where nspname !~ '^pg_(toast|temp)'
        union all
        select 'relation ' || oid::regclass from pg_class where relnamespace <> 'pg_toast'::regnamespace
        union all
        select 'function ' || oid::regprocedure from pg_proc
        union all
        select 'type ' || oid::regtype from pg_type where typnamespace <> 'pg_toast'::regnamespace
        union all
        select 'extension ' || extname from pg_extension
        """
    )
    return {row[0] for row in rows.fetchall()}
