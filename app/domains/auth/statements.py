"""SQL statements of sign-in and credentials, each atomic and safe to run concurrently.

Lock order of all statements: user, password, links, sessions, tokens.
"""

from sqlalchemy import text

from app.core.http.authorisation import UNKNOWN_ADDRESS

EXPIRED_PER_ATTEMPT = 4


def _upsert_counter(key: str, source: str) -> str:
    """Return the SQL that increments the counter of a key if `source` has a row. An expired window starts again."""
    return f"""
            INSERT INTO sign_in_attempts AS a (key, attempts, ends_at)
            SELECT {key}, 1, clock_timestamp() + make_interval(secs => :window) FROM {source}
                ON CONFLICT (key) DO UPDATE SET
                   attempts = CASE WHEN a.ends_at > clock_timestamp() THEN a.attempts + 1 ELSE 1 END,
                   ends_at = CASE WHEN a.ends_at > clock_timestamp() THEN a.ends_at ELSE excluded.ends_at END
            RETURNING key, attempts, ends_at
    """  # noqa: S608 - constant text only, as in all statements below


_COUNT_BY_PAIR = _upsert_counter(
    "'1 ' || account || ' ' || :address", "digest WHERE NOT EXISTS (SELECT FROM blocked_address)"
)
_COUNT_BY_ADDRESS = _upsert_counter(
    "'2 ' || :address", f"by_pair WHERE attempts <= :max_attempts AND :address <> '{UNKNOWN_ADDRESS}'"
)
_COUNT_BY_ACCOUNT = _upsert_counter(
    "'3 ' || account",
    """digest
             WHERE EXISTS (SELECT FROM by_pair WHERE attempts <= :max_attempts)
               AND NOT EXISTS (SELECT FROM by_address WHERE attempts > :max_per_address)
               AND NOT EXISTS (SELECT FROM familiar_addresses f JOIN account a ON a.id = f.user_id
                                WHERE f.address = :address AND f.last_used_at > now() - interval '90 days')""",
)

# Counts an attempt before the password is verified, so that concurrent attempts count, too. There are three counters:
# account and address (1), address (2), account (3). The caller rolls an attempt back that exceeds one of them: the
# counters hold attempts whose password is checked, and a blocked address adds no rows. The account counter does not
# apply to addresses that are familiar to the user. Lock order of counters: by key, here and below.
# An attempt adds at most three rows and deletes more expired ones, after its own rows are locked and without waiting.
# So the table holds the attempts of one window, whether or not housekeeping runs.
COUNT_ATTEMPT = text(
    f"""
    WITH account AS (
        SELECT u.id, u.is_active, c.password_hash
          FROM users u JOIN credentials c ON c.user_id = u.id
         WHERE fold_email(u.email) = fold_email(:email)
    ), digest AS (
        SELECT encode(sha256(convert_to(fold_email(:email), 'UTF8')), 'hex') AS account
    ), blocked_address AS (
        SELECT key, ends_at FROM sign_in_attempts
         WHERE key = '2 ' || :address AND attempts >= :max_per_address AND ends_at > clock_timestamp()
    ), by_pair AS ({_COUNT_BY_PAIR}
    ), by_address AS ({_COUNT_BY_ADDRESS}
    ), by_account AS ({_COUNT_BY_ACCOUNT}
    ), counters AS (
        SELECT key, ends_at, attempts > :max_attempts AS is_exceeded FROM by_pair
        UNION ALL SELECT key, ends_at, attempts > :max_per_address FROM by_address
        UNION ALL SELECT key, ends_at, attempts > :max_per_account FROM by_account
        UNION ALL SELECT key, ends_at, true FROM blocked_address
    ), expired AS (
        DELETE FROM sign_in_attempts WHERE key IN (
            SELECT key FROM sign_in_attempts WHERE ends_at < now() AND key <> ALL (ARRAY(SELECT key FROM counters))
             ORDER BY ends_at LIMIT {EXPIRED_PER_ATTEMPT} FOR UPDATE SKIP LOCKED)
    )
    SELECT (SELECT array_agg(key ORDER BY key) FROM counters) AS keys,
           (SELECT ceil(extract(epoch FROM max(ends_at) - clock_timestamp()))::int
              FROM counters WHERE is_exceeded) AS blocked_seconds,
           a.id, a.password_hash
      FROM (SELECT) AS one_row LEFT JOIN account a ON a.is_active
    """  # noqa: S608
)

# Resets the counter of this account and address, and takes this attempt off the other counters.
_RESET_COUNTERS_CTES = """
        locked AS (
            SELECT key FROM sign_in_attempts WHERE key = ANY(:keys) ORDER BY key FOR UPDATE
        ), reset AS (
            UPDATE sign_in_attempts a
               SET attempts = CASE WHEN a.key LIKE '1 %' THEN 0 ELSE greatest(a.attempts - 1, 0) END
              FROM locked WHERE a.key = locked.key AND EXISTS (SELECT FROM account)
        )
"""

# Takes an attempt off its counters. A counter without further attempts is deleted, so that attempts which do not count
# leave no rows.
UNDO_ATTEMPT = text(
    """
    WITH locked AS (
        SELECT key, attempts FROM sign_in_attempts WHERE key = ANY(:keys) ORDER BY key FOR UPDATE
    ), deleted AS (
        DELETE FROM sign_in_attempts a USING locked WHERE a.key = locked.key AND locked.attempts <= 1
    )
    UPDATE sign_in_attempts a SET attempts = a.attempts - 1
      FROM locked WHERE a.key = locked.key AND locked.attempts > 1
    """
)

# Opens a session only if the verified password is still stored and the user is active. The row locks serialise this
# with changes of either, and PostgreSQL rechecks the conditions after a wait.
OPEN_SESSION = text(
    f"""
    WITH account AS (
        SELECT u.id, u.access_level FROM users u JOIN credentials c ON c.user_id = u.id
         WHERE u.id = :user_id AND u.is_active AND c.password_hash = :password_hash
           FOR SHARE OF u FOR NO KEY UPDATE OF c
    ), familiar AS (
        INSERT INTO familiar_addresses (user_id, address) SELECT id, :address FROM account
            ON CONFLICT (user_id, address) DO UPDATE SET last_used_at = excluded.last_used_at
    ), opened AS (
        INSERT INTO sessions (user_id, scopes, address, user_agent, expires_at)
        SELECT id, CAST(:scopes AS text[]), :address, :user_agent, now() + CAST(:lifetime AS interval) FROM account
        RETURNING id, expires_at
    ), token AS (
        INSERT INTO refresh_tokens (token_hash, session_id, expires_at)
        SELECT :token_hash, id, expires_at FROM opened
    ), rehashed AS (
        UPDATE credentials SET password_hash = :new_hash FROM account
         WHERE user_id = account.id AND CAST(:new_hash AS text) IS NOT NULL
    ), {_RESET_COUNTERS_CTES}
    SELECT opened.id, account.access_level FROM opened, account
    """  # noqa: S608
)

RESET_COUNTERS = text(f"WITH account AS (SELECT), {_RESET_COUNTERS_CTES} SELECT 1 AS done")

# The first of concurrent rotations spends the token. The others wait for the row lock of the session, which sign-out
# takes first, too, and then find the token spent within the grace period. Spent tokens are kept, so their number has a
# limit. The count is exact: the next token of a session is known only after the commit of the previous rotation.
ROTATE_REFRESH_TOKEN = text(
    """
    WITH presented AS (
        SELECT t.session_id, t.spent_at, u.id AS user_id, u.access_level, s.scopes,
               coalesce(t.spent_at < clock_timestamp() - CAST(:grace AS interval),
                        (SELECT count(*) FROM refresh_tokens o WHERE o.session_id = s.id) >= :max_tokens) AS must_end
          FROM refresh_tokens t JOIN sessions s ON s.id = t.session_id JOIN users u ON u.id = s.user_id
         WHERE t.token_hash = :token_hash AND t.expires_at > now() AND u.is_active
           FOR UPDATE OF s
    ), spent AS (
        UPDATE refresh_tokens t SET spent_at = clock_timestamp() FROM presented p
         WHERE t.token_hash = :token_hash AND t.spent_at IS NULL AND NOT p.must_end
        RETURNING t.session_id
    ), successor AS (
        INSERT INTO refresh_tokens (token_hash, session_id, expires_at)
        SELECT (CAST(:successor_hashes AS bytea[]))[1], session_id, now() + CAST(:lifetime AS interval) FROM spent
    ), extended AS (
        UPDATE sessions s SET last_used_at = now(), expires_at = now() + CAST(:lifetime AS interval) FROM spent
         WHERE s.id = spent.session_id
    ), ended AS (
        DELETE FROM sessions s USING presented p WHERE s.id = p.session_id AND p.must_end
    )
    SELECT session_id, user_id, access_level, scopes, must_end, EXISTS (SELECT FROM spent) AS is_first,
           (SELECT token_hash FROM refresh_tokens WHERE token_hash = ANY(:successor_hashes)) AS stored_hash
      FROM presented
    """
)
# Runs after a rotation that waited for a concurrent one: its newer snapshot has the successor that the other stored.
SELECT_SUCCESSOR = text("SELECT token_hash FROM refresh_tokens WHERE token_hash = ANY(:successor_hashes)")

# Creating credentials requires a session that is live now and until the commit; the caller may come from the cache.
# The lock of the user also makes concurrent requests of one user take turns, so that each counts the tokens of the
# others.
LOCK_SESSION = text(
    """
    SELECT s.id FROM users u JOIN sessions s ON s.user_id = u.id
     WHERE s.id = :session_id AND u.id = :user_id AND s.expires_at > now() AND u.is_active
       FOR NO KEY UPDATE OF u FOR KEY SHARE OF s
    """
)
# Runs after the statement that stores a password: the newer snapshot includes sessions that were opened while that
# statement waited for a row lock.
END_OTHER_SESSIONS = text("DELETE FROM sessions WHERE user_id = :user_id AND id <> :session_id RETURNING id")
END_SESSION = text("DELETE FROM sessions WHERE id = :session_id AND user_id = :user_id RETURNING id")

SELECT_PASSWORD = text(
    """
    SELECT c.password_hash, u.name, u.email FROM users u LEFT JOIN credentials c ON c.user_id = u.id
     WHERE u.id = :user_id AND u.is_active
    """
)
SELECT_LINK_USER = text(
    """
    SELECT u.id, u.name, u.email FROM password_links l JOIN users u ON u.id = l.user_id
     WHERE l.token_hash = :token_hash AND l.expires_at > now() AND u.is_active
    """
)

# Records a change of a user's credentials in the history, without the secrets. `at` is a column of the source.
_RECORD = """
        INSERT INTO changes (at, actor_id, actor_name, request_id, message, type, object_id, object_code, object_name,
                             action, before, after)
        SELECT at, CAST(:caller_id AS bigint), :caller_name, :request_id, :message,
"""

# A user whose credentials change: locks the row, and keeps the times of the user's changes in their order, as
# `time_of_change` does.
_TOUCH = "UPDATE users u SET updated_at = greatest(clock_timestamp(), u.updated_at)"
_TOUCHED = "u.id, u.code, u.name, u.updated_at AS at"

# Stores the password hash of the user in `account` and records the change.
_STORE_PASSWORD_CTES = f"""
        touched AS (
            {_TOUCH} FROM account WHERE u.id = account.id RETURNING {_TOUCHED}
        ), stored AS (
            INSERT INTO credentials (user_id, password_hash) SELECT id, :new_hash FROM touched
                ON CONFLICT (user_id) DO UPDATE SET password_hash = excluded.password_hash
        ), recorded AS (
            {_RECORD} 'users', id, code, name, 'updated', '{{}}'::jsonb, '{{"password": "changed"}}'::jsonb FROM touched
        )
        SELECT id FROM touched
"""  # noqa: S608

CREATE_LINK = text(
    f"""
    WITH target AS (
        {_TOUCH} WHERE u.id = :user_id AND u.is_active RETURNING {_TOUCHED}
    ), created AS (
        INSERT INTO password_links (user_id, token_hash, expires_at)
        SELECT id, :token_hash, now() + CAST(:lifetime AS interval) FROM target
            ON CONFLICT (user_id) DO UPDATE SET token_hash = excluded.token_hash, expires_at = excluded.expires_at
        RETURNING expires_at
    ), recorded AS (
        {_RECORD} 'users', id, code, name, 'updated', '{{}}'::jsonb, '{{"password_link": "made"}}'::jsonb
          FROM target
    )
    SELECT expires_at FROM created
    """  # noqa: S608
)

# Used by the command line, which acts on behalf of the first administrator.
STORE_PASSWORD = text(
    f"""
    WITH account AS (
        SELECT id FROM users WHERE id = :user_id
    ), {_STORE_PASSWORD_CTES}
    """  # noqa: S608
)

# Serialised by the row lock of the user: the second of two concurrent uses finds the link spent.
REDEEM_LINK = text(
    f"""
    WITH target AS (
        SELECT u.id FROM password_links l JOIN users u ON u.id = l.user_id
         WHERE l.token_hash = :token_hash AND l.expires_at > now() AND u.is_active
           FOR NO KEY UPDATE OF u
    ), spent AS (
        DELETE FROM password_links l USING target t
         WHERE l.user_id = t.id AND l.token_hash = :token_hash AND l.expires_at > now()
        RETURNING l.user_id
    ), account AS (
        SELECT user_id AS id FROM spent
    ), {_STORE_PASSWORD_CTES}
    """  # noqa: S608
)

# Changes the password only if the verified one is still stored.
CHANGE_PASSWORD = text(
    f"""
    WITH account AS (
        SELECT id FROM users WHERE id = :user_id AND is_active FOR NO KEY UPDATE
    ), stored AS (
        UPDATE credentials c SET password_hash = :new_hash FROM account a
         WHERE c.user_id = a.id AND c.password_hash = :old_hash
        RETURNING c.user_id
    ), spent AS (
        DELETE FROM password_links l USING stored WHERE l.user_id = stored.user_id
    ), touched AS (
        {_TOUCH} FROM stored WHERE u.id = stored.user_id RETURNING {_TOUCHED}
    ), recorded AS (
        {_RECORD} 'users', id, code, name, 'updated', '{{}}'::jsonb, '{{"password": "changed"}}'::jsonb FROM touched
    )
    SELECT user_id FROM stored
    """  # noqa: S608
)

# An API token as the history records it.
_HISTORY_DOCUMENT = """
    jsonb_build_object('name', t.name, 'scopes', t.scopes, 'expires_at', t.expires_at,
                       'user', jsonb_build_object('id', u.id, 'code', u.code, 'name', u.name))
"""

# Runs after `LOCK_SESSION`, whose lock makes the count exact. Returns no row if the user has `max_tokens` tokens.
CREATE_API_TOKEN = text(
    f"""
    WITH created AS (
        INSERT INTO api_tokens (user_id, name, token_hash, scopes, expires_at)
        SELECT :user_id, :name, :token_hash, CAST(:scopes AS text[]),
               statement_timestamp() + make_interval(days => :days)
         WHERE (SELECT count(*) FROM api_tokens WHERE user_id = :user_id AND expires_at > now()) < :max_tokens
        RETURNING id, user_id, name, scopes, created_at, created_at AS at, expires_at
    ), recorded AS (
        {_RECORD} 'api_tokens', t.id, NULL, t.name, 'created', NULL, {_HISTORY_DOCUMENT}
          FROM created t JOIN users u ON u.id = t.user_id
    )
    SELECT t.id, t.name, t.scopes, t.created_at, t.expires_at, u.id AS user_id, u.code AS user_code,
           u.name AS user_name
      FROM created t JOIN users u ON u.id = t.user_id
    """  # noqa: S608
)

# `:user_id` restricts the statement to tokens of that user; NULL allows any token.
REVOKE_API_TOKEN = text(
    f"""
    WITH deleted AS (
        DELETE FROM api_tokens WHERE id = :token_id AND (CAST(:user_id AS bigint) IS NULL OR user_id = :user_id)
        RETURNING id, user_id, name, scopes, expires_at, greatest(clock_timestamp(), created_at) AS at
    ), recorded AS (
        {_RECORD} 'api_tokens', t.id, NULL, t.name, 'deleted', {_HISTORY_DOCUMENT}, NULL
          FROM deleted t JOIN users u ON u.id = t.user_id
    )
    SELECT user_id FROM deleted
    """  # noqa: S608
)

SELECT_ME = text(
    """
    SELECT u.id, u.code, u.name, u.email, d.id AS department_id, d.code AS department_code,
           d.name AS department_name
      FROM users u LEFT JOIN departments d ON d.id = u.department_id
     WHERE u.id = :user_id
    """
)
