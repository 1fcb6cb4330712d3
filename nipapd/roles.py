"""The roles of the private PostgreSQL: the owner of the database, and the rights of handlers on it.

    postgres      superuser; creates the other two, and converts data directories from before these roles
    nipap_owner   owns the database and everything in it: migrations, check, repair, dump, restore
    nipap         handlers and the processes beside them: reads and writes rows, owns nothing

`nipapd.embedded` decides which account of the host may use which role.
"""

from __future__ import annotations

import contextlib
import logging
import random
import time

import psycopg2
import psycopg2.errors
import psycopg2.extensions

from nipap.postgres import advisory
from nipapd.embedded import OWNER, SERVICE, EmbeddedPostgresError

log = logging.getLogger(__name__)

LOCK_PATIENCE_MS = 2000  # calls of older programs may queue for so long behind a change of owner
PAUSE_S = 1.0

# The rights of handlers on tables with restricted rights; on all other tables they have EVERY_WAY.
SOME_TABLES = {
    'audit_log': 'SELECT, INSERT',
    'audit_span': 'SELECT, INSERT, UPDATE',
    'audit_detached': 'SELECT',
    'change_set': 'SELECT, INSERT',
    'change_order': 'SELECT, INSERT',
    'plan_key': 'SELECT',
    'schema_migration': 'SELECT',
    'sign_in': 'SELECT, INSERT, DELETE',
}
EVERY_WAY = 'SELECT, INSERT, UPDATE, DELETE'

# Sessions do not log errors, see `EmbeddedPostgres.dsn`.
ROLES = f"""
DO $$
DECLARE
    wanted text;
BEGIN
    FOREACH wanted IN ARRAY ARRAY['{OWNER}', '{SERVICE}'] LOOP
        IF to_regrole(wanted) IS NULL THEN
            EXECUTE format('CREATE ROLE %I', wanted);
        END IF;
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = wanted AND rolcanlogin AND rolinherit AND NOT rolsuper
                       AND NOT rolcreatedb AND NOT rolcreaterole AND NOT rolreplication AND NOT rolbypassrls) THEN
            EXECUTE format('ALTER ROLE %I LOGIN INHERIT NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS',
                           wanted);
        END IF;
        IF NOT EXISTS (SELECT FROM pg_db_role_setting WHERE setdatabase = 0 AND setrole = to_regrole(wanted)
                       AND 'log_min_messages=log' = ANY (setconfig)) THEN
            EXECUTE format('ALTER ROLE %I SET log_min_messages = log', wanted);
        END IF;
    END LOOP;
    IF (SELECT datdba FROM pg_database WHERE datname = current_database()) <> '{OWNER}'::regrole THEN
        EXECUTE format('ALTER DATABASE %I OWNER TO {OWNER}', current_database());
    END IF;
    IF NOT EXISTS (SELECT FROM pg_default_acl WHERE defaclrole = '{OWNER}'::regrole) THEN
        -- Grant handlers their rights on tables and sequences that migrations and restores create.
        ALTER DEFAULT PRIVILEGES FOR ROLE {OWNER} GRANT {EVERY_WAY} ON TABLES TO {SERVICE};
        ALTER DEFAULT PRIVILEGES FOR ROLE {OWNER} GRANT USAGE, SELECT ON SEQUENCES TO {SERVICE};
    END IF;
    IF NOT EXISTS (SELECT FROM pg_default_acl WHERE defaclrole = '{OWNER}'::regrole AND defaclobjtype = 'f') THEN
        -- Some functions are not for everybody.
        ALTER DEFAULT PRIVILEGES FOR ROLE {OWNER} GRANT EXECUTE ON FUNCTIONS TO {SERVICE};
    END IF;
    IF NOT has_schema_privilege('{OWNER}', 'public', 'CREATE') THEN
        -- Only before PostgreSQL 15: in newer versions the owner of the database owns public.
        ALTER SCHEMA public OWNER TO {OWNER};
    END IF;
    IF EXISTS (SELECT FROM pg_namespace, aclexplode(nspacl) acl
               WHERE nspname = 'public' AND acl.grantee = 0 AND acl.privilege_type = 'CREATE') THEN
        REVOKE CREATE ON SCHEMA public FROM PUBLIC;
    END IF;
END $$
"""

# Every object of ours that has another owner, since it is older than the role. Members of an extension and sequences of
# columns are left out: they follow the extension or the column. A partition does not follow its table.
_VERSIONED = "nspname ~ '^public_v[0-9]+(_past)?$'"
_HOMES = f"(nspname = 'public' OR {_VERSIONED})"
_NO_MEMBER = """NOT EXISTS (
    SELECT FROM pg_depend
    WHERE classid = '{0}'::regclass AND objid = {0}.oid AND objsubid = 0 AND deptype IN ('e', 'a', 'i'))"""
STRANGERS = f"""
SELECT 'SCHEMA', quote_ident(nspname) FROM pg_namespace
WHERE {_VERSIONED} AND nspowner <> '{OWNER}'::regrole
UNION ALL
SELECT CASE relkind WHEN 'v' THEN 'VIEW' WHEN 'm' THEN 'MATERIALIZED VIEW' WHEN 'S' THEN 'SEQUENCE'
    WHEN 'f' THEN 'FOREIGN TABLE' ELSE 'TABLE' END, pg_class.oid::regclass::text
FROM pg_class JOIN pg_namespace n ON n.oid = relnamespace
WHERE {_HOMES} AND relkind IN ('r', 'p', 'v', 'm', 'S', 'f') AND relowner <> '{OWNER}'::regrole
    AND (relispartition OR {_NO_MEMBER.format('pg_class')})
UNION ALL
SELECT 'ROUTINE', pg_proc.oid::regprocedure::text FROM pg_proc JOIN pg_namespace n ON n.oid = pronamespace
WHERE {_HOMES} AND proowner <> '{OWNER}'::regrole AND {_NO_MEMBER.format('pg_proc')}
UNION ALL
SELECT 'TYPE', pg_type.oid::regtype::text FROM pg_type JOIN pg_namespace n ON n.oid = typnamespace
WHERE {_HOMES} AND typowner <> '{OWNER}'::regrole AND {_NO_MEMBER.format('pg_type')} AND (typtype IN ('d', 'e', 'r')
    OR typtype = 'c' AND EXISTS (SELECT FROM pg_class c WHERE c.oid = typrelid AND c.relkind = 'c'))
UNION ALL
SELECT 'STATISTICS', quote_ident(nspname) || '.' || quote_ident(stxname)
FROM pg_statistic_ext JOIN pg_namespace n ON n.oid = stxnamespace
WHERE {_HOMES} AND stxowner <> '{OWNER}'::regrole
"""

# Tables on which handlers have other rights than they should, with the right ones.
_RIGHTS = ', '.join(f"('{table}', '{rights}')" for table, rights in SOME_TABLES.items())
# Handlers reach a partition through its table. Of the audit log, they may read a detached one.
_RIGHT = f"""CASE WHEN c.relispartition THEN '' WHEN c.relname ~ '^audit_log_' THEN 'SELECT'
    ELSE coalesce(special.rights, '{EVERY_WAY}') END"""
WRONG_RIGHTS = f"""
SELECT c.oid::regclass::text, {_RIGHT}
FROM pg_class c LEFT JOIN (VALUES {_RIGHTS}) special (name, rights) ON special.name = c.relname
WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p')
AND string_to_array({_RIGHT}, ', ') <> ARRAY(
    SELECT wanted FROM unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE']) WITH ORDINALITY w (wanted, n)
    WHERE has_table_privilege('{SERVICE}', c.oid, wanted) ORDER BY n)
"""
# Views of the past that handlers cannot read (sql/functions/099_past_views.sql).
VIEWS = f"""
SELECT c.oid::regclass::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname ~ '^public_v[0-9]+_past$' AND c.relkind = 'v' AND NOT has_table_privilege('{SERVICE}', c.oid, 'SELECT')
"""
SEQUENCES = f"""
SELECT oid::regclass::text FROM pg_class WHERE relnamespace = 'public'::regnamespace
AND CASE relkind WHEN 'S' THEN NOT has_sequence_privilege('{SERVICE}', oid, 'USAGE') ELSE false END
"""
FUNCTIONS = f"""
SELECT pg_proc.oid::regprocedure::text FROM pg_proc JOIN pg_namespace n ON n.oid = pronamespace
WHERE {_HOMES} AND NOT has_function_privilege('{SERVICE}', pg_proc.oid, 'EXECUTE')
"""


def prepare(dsn: str) -> None:
    """Create the roles, give a database to its owner, and grant handlers their rights on every table.

    dsn: the database, for a superuser.

    Changes nothing when everything is right. Several programs may call this at once, also beside running daemons.

    :raises EmbeddedPostgresError: PostgreSQL has refused a statement.
    """
    try:
        with contextlib.closing(psycopg2.connect(dsn)) as connection:
            while not _try(connection):
                log.info('changing owners in the database: waiting for locks of other sessions')
                time.sleep(random.uniform(0.5, 1.0) * PAUSE_S)
    except psycopg2.Error as error:
        problem = ' '.join(str(error).split())
        raise EmbeddedPostgresError(f'cannot prepare the roles of the database: {problem}') from error


def _try(connection: psycopg2.extensions.connection) -> bool:
    """Make all changes in one transaction; return False when a lock is not free within LOCK_PATIENCE_MS."""
    try:
        with connection, connection.cursor() as cursor:
            cursor.execute('SELECT pg_advisory_xact_lock(%s)', (advisory.SCHEMA,))
            cursor.execute(f"SET LOCAL search_path = 'public'; SET LOCAL lock_timeout = {LOCK_PATIENCE_MS}; {ROLES}")
            cursor.execute(STRANGERS)
            for kind, name in cursor.fetchall():
                cursor.execute(f'ALTER {kind} {name} OWNER TO {OWNER}')
            cursor.execute(WRONG_RIGHTS)
            for table, rights in cursor.fetchall():
                granted = f'; GRANT {rights} ON {table} TO {SERVICE}' if rights else ''
                cursor.execute(f'REVOKE ALL ON {table} FROM {SERVICE}{granted}')
            cursor.execute(VIEWS)
            for (view,) in cursor.fetchall():
                cursor.execute(f'GRANT SELECT ON {view} TO {SERVICE}')
            cursor.execute(SEQUENCES)
            for (sequence,) in cursor.fetchall():
                cursor.execute(f'GRANT USAGE, SELECT ON {sequence} TO {SERVICE}')
            cursor.execute(FUNCTIONS)
            for (function,) in cursor.fetchall():
                cursor.execute(f'GRANT EXECUTE ON ROUTINE {function} TO {SERVICE}')
        return True
    except psycopg2.errors.LockNotAvailable:
        return False
