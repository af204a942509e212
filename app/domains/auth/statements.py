"""The statements of signing in. Each is one step that succeeds or fails as a whole, also when many run at once.

All lock in one order: the user, the password, links, sessions, tokens.
"""

from sqlalchemy import text

from app.core.http.authorisation import UNKNOWN_ADDRESS


def _counting(key: str, source: str) -> str:
    """Return the SQL that counts an attempt under a key, if the source has a row."""
    return f"""
            INSERT INTO sign_in_attempts AS a (key, attempts, ends_at)
            SELECT {key}, 1, clock_timestamp() + make_interval(secs => :window) FROM {source}
                ON CONFLICT (key) DO UPDATE SET
                   attempts = CASE WHEN a.ends_at > clock_timestamp() THEN a.attempts + 1 ELSE 1 END,
                   ends_at = CASE WHEN a.ends_at > clock_timestamp() THEN a.ends_at ELSE excluded.ends_at END
            RETURNING key, attempts, ends_at
    """  # noqa: S608 - made of our own text, as all below


_PAIR = _counting("'1 ' || account || ' ' || :address", "digest WHERE NOT EXISTS (SELECT FROM closed)")
_ADDRESS = _counting("'2 ' || :address", f"pair WHERE attempts <= :most AND :address <> '{UNKNOWN_ADDRESS}'")
_ACCOUNT = _counting(
    "'3 ' || account",
    """digest
             WHERE EXISTS (SELECT FROM pair WHERE attempts <= :most)
               AND NOT EXISTS (SELECT FROM address WHERE attempts > :most_per_address)
               AND NOT EXISTS (SELECT FROM familiar_addresses f JOIN account a ON a.id = f.user_id
                                WHERE f.address = :address AND f.last_used_at > now() - interval '90 days')""",
)

# Counts an attempt before the password is looked at, so that attempts at the same time count, too. What is refused at
# one step does not count at the next: who has used up the attempts on one account uses up nobody else's, and who has
# used up those of an address leaves no more rows. Where the user has signed in before, what strangers do elsewhere does
# not count. All who count and forgive lock the keys in the same order, that of their text.
COUNT_ATTEMPT = text(
    f"""
    WITH account AS (
        SELECT u.id, u.is_active, c.password_hash
          FROM users u JOIN credentials c ON c.user_id = u.id
         WHERE lower(u.email) = lower(:email)
    ), digest AS (
        SELECT encode(sha256(convert_to(lower(:email), 'UTF8')), 'hex') AS account
    ), closed AS (
        SELECT key, ends_at FROM sign_in_attempts
         WHERE key = '2 ' || :address AND attempts > :most_per_address AND ends_at > clock_timestamp()
    ), pair AS ({_PAIR}
    ), address AS ({_ADDRESS}
    ), everywhere AS ({_ACCOUNT}
    ), counted AS (
        SELECT key, ends_at, attempts > :most AS is_refused FROM pair
        UNION ALL SELECT key, ends_at, attempts > :most_per_address FROM address
        UNION ALL SELECT key, ends_at, attempts > :most_per_account FROM everywhere
        UNION ALL SELECT key, ends_at, true FROM closed
    )
    SELECT (SELECT array_agg(key ORDER BY key) FROM counted) AS keys,
           (SELECT ceil(extract(epoch FROM max(ends_at) - clock_timestamp()))::int
              FROM counted WHERE is_refused) AS blocked_seconds,
           a.id, a.password_hash
      FROM (SELECT) AS once LEFT JOIN account a ON a.is_active
    """  # noqa: S608
)

# Of the attempts on this account from this address nothing is left; of the others this one is taken back.
_FORGIVE = """
        locked AS (
            SELECT key FROM sign_in_attempts WHERE key = ANY(:keys) ORDER BY key FOR UPDATE
        ), forgiven AS (
            UPDATE sign_in_attempts a
               SET attempts = CASE WHEN a.key LIKE '1 %' THEN 0 ELSE greatest(a.attempts - 1, 0) END
              FROM locked WHERE a.key = locked.key AND EXISTS (SELECT FROM account)
        )
"""

# Only if the password is still the one that was checked, and the user active: whoever changes either waits for us, or
# we for them, and then look again.
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
    ), {_FORGIVE}
    SELECT opened.id, account.access_level FROM opened, account
    """  # noqa: S608 - made of our own text
)

FORGIVE_ATTEMPT = text(f"WITH account AS (SELECT), {_FORGIVE} SELECT 1 AS done")

# Of several at once the first spends the token; the others wait for it at the session, which signing out locks first,
# too, and find it spent a moment ago.
ROTATE = text(
    """
    WITH presented AS (
        SELECT t.session_id, t.spent_at, u.id AS user_id, u.access_level, s.scopes,
               t.spent_at < clock_timestamp() - CAST(:grace AS interval) AS is_reused
          FROM refresh_tokens t JOIN sessions s ON s.id = t.session_id JOIN users u ON u.id = s.user_id
         WHERE t.token_hash = :token_hash AND t.expires_at > now() AND u.is_active
           FOR UPDATE OF s
    ), spent AS (
        UPDATE refresh_tokens t SET spent_at = clock_timestamp() FROM presented p
         WHERE t.token_hash = :token_hash AND t.spent_at IS NULL
        RETURNING t.session_id
    ), successor AS (
        INSERT INTO refresh_tokens (token_hash, session_id, expires_at)
        SELECT :successor_hash, session_id, now() + CAST(:lifetime AS interval) FROM spent
    ), prolonged AS (
        UPDATE sessions s SET last_used_at = now(), expires_at = now() + CAST(:lifetime AS interval) FROM spent
         WHERE s.id = spent.session_id
    ), ended AS (
        DELETE FROM sessions s USING presented p WHERE s.id = p.session_id AND p.is_reused
    )
    SELECT session_id, user_id, access_level, scopes, coalesce(is_reused, false) AS is_reused FROM presented
    """
)

# Who makes credentials must not be remembered only, but signed in to this moment, and until they are made.
LOCK_SESSION = text(
    """
    SELECT s.id FROM users u JOIN sessions s ON s.user_id = u.id
     WHERE s.id = :session_id AND u.id = :user_id AND s.expires_at > now() AND u.is_active
       FOR SHARE OF u FOR KEY SHARE OF s
    """
)
# A statement of its own after the one that stored a password: it sees what that one waited for.
END_OTHER_SESSIONS = text("DELETE FROM sessions WHERE user_id = :user_id AND id <> :session_id RETURNING id")
END_SESSION = text("DELETE FROM sessions WHERE id = :session_id AND user_id = :user_id RETURNING id")

PASSWORD_OF = text(
    """
    SELECT c.password_hash, u.name, u.email FROM users u LEFT JOIN credentials c ON c.user_id = u.id
     WHERE u.id = :user_id AND u.is_active
    """
)
USER_OF_LINK = text(
    """
    SELECT u.id, u.name, u.email FROM password_links l JOIN users u ON u.id = l.user_id
     WHERE l.token_hash = :token_hash AND l.expires_at > now() AND u.is_active
    """
)

# What a caller did to a user's credentials; the secrets themselves never stand here.
_RECORD = """
        INSERT INTO changes (actor_id, actor_name, request_id, message, type, object_id, object_code, object_name,
                             action, before, after)
        SELECT CAST(:caller_id AS bigint), :caller_name, :request_id, :message,
"""

# Gives the user in `account` a password.
_STORED = f"""
        stored AS (
            INSERT INTO credentials (user_id, password_hash) SELECT id, :new_hash FROM account
                ON CONFLICT (user_id) DO UPDATE SET password_hash = excluded.password_hash
        ), recorded AS (
            {_RECORD} 'users', id, code, name, 'updated', '{{}}'::jsonb, '{{"password": "changed"}}'::jsonb FROM account
        )
        SELECT id FROM account
"""  # noqa: S608 - likewise

MAKE_LINK = text(
    f"""
    WITH target AS (
        SELECT id, code, name FROM users WHERE id = :user_id AND is_active
    ), made AS (
        INSERT INTO password_links (user_id, token_hash, expires_at)
        SELECT id, :token_hash, now() + CAST(:lifetime AS interval) FROM target
            ON CONFLICT (user_id) DO UPDATE SET token_hash = excluded.token_hash, expires_at = excluded.expires_at
        RETURNING expires_at
    ), recorded AS (
        {_RECORD} 'users', id, code, name, 'updated', '{{}}'::jsonb, '{{"password_link": "made"}}'::jsonb
          FROM target
    )
    SELECT expires_at FROM made
    """  # noqa: S608 - likewise
)

# Both the user who does it and, at the command line, the first administrator may be the actor.
STORE_PASSWORD = text(
    f"""
    WITH account AS (
        SELECT id, code, name FROM users WHERE id = :user_id
    ), {_STORED}
    """  # noqa: S608 - likewise
)

# Of two at once, one finds the link spent.
REDEEM_LINK = text(
    f"""
    WITH named AS (
        SELECT u.id, u.code, u.name FROM password_links l JOIN users u ON u.id = l.user_id
         WHERE l.token_hash = :token_hash AND l.expires_at > now() AND u.is_active
           FOR NO KEY UPDATE OF u
    ), spent AS (
        DELETE FROM password_links l USING named n
         WHERE l.user_id = n.id AND l.token_hash = :token_hash AND l.expires_at > now()
        RETURNING l.user_id
    ), account AS (
        SELECT n.id, n.code, n.name FROM named n JOIN spent ON spent.user_id = n.id
    ), {_STORED}
    """  # noqa: S608 - likewise
)

# Only if the password is still the one that was checked.
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
    ), recorded AS (
        {_RECORD} 'users', u.id, u.code, u.name, 'updated', '{{}}'::jsonb, '{{"password": "changed"}}'::jsonb
          FROM users u JOIN stored ON u.id = stored.user_id
    )
    SELECT user_id FROM stored
    """  # noqa: S608 - likewise
)

_GRANT = """
    jsonb_build_object('name', t.name, 'scopes', t.scopes, 'expires_at', t.expires_at,
                       'user', jsonb_build_object('id', u.id, 'code', u.code, 'name', u.name))
"""

MAKE_API_TOKEN = text(
    f"""
    WITH made AS (
        INSERT INTO api_tokens (user_id, name, token_hash, scopes, expires_at)
        VALUES (:user_id, :name, :token_hash, :scopes, now() + make_interval(days => :days))
        RETURNING id, user_id, name, scopes, created_at, expires_at
    ), recorded AS (
        {_RECORD} 'api_tokens', t.id, NULL, t.name, 'created', NULL, {_GRANT}
          FROM made t JOIN users u ON u.id = t.user_id
    )
    SELECT t.id, t.name, t.scopes, t.created_at, t.expires_at, u.id AS user_id, u.code AS user_code,
           u.name AS user_name
      FROM made t JOIN users u ON u.id = t.user_id
    """  # noqa: S608 - likewise
)

# Without a user, anybody's.
REVOKE_API_TOKEN = text(
    f"""
    WITH gone AS (
        DELETE FROM api_tokens WHERE id = :token_id AND (CAST(:user_id AS bigint) IS NULL OR user_id = :user_id)
        RETURNING id, user_id, name, scopes, expires_at
    ), recorded AS (
        {_RECORD} 'api_tokens', t.id, NULL, t.name, 'deleted', {_GRANT}, NULL
          FROM gone t JOIN users u ON u.id = t.user_id
    )
    SELECT id FROM gone
    """  # noqa: S608 - likewise
)

SESSIONS = text(
    """
    WITH page AS MATERIALIZED (
        SELECT id, created_at, last_used_at, expires_at, address, user_agent, scopes, id = :session_id AS current
          FROM sessions WHERE user_id = :user_id AND expires_at > now()
         ORDER BY id DESC LIMIT CAST(:limit AS bigint) + 1 OFFSET CAST(:offset AS bigint)
    ), shown AS (
        SELECT * FROM page ORDER BY id DESC LIMIT CAST(:limit AS bigint)
    )
    SELECT (SELECT count(*) FROM page) AS rows,
           convert_to(coalesce((SELECT json_agg(shown) FROM shown), '[]')::text, 'UTF8') AS items
    """
)
COUNT_SESSIONS = text("SELECT count(*) AS total FROM sessions WHERE user_id = :user_id AND expires_at > now()")

ME = text(
    """
    SELECT u.id, u.code, u.name, u.email, d.id AS department_id, d.code AS department_code,
           d.name AS department_name
      FROM users u LEFT JOIN departments d ON d.id = u.department_id
     WHERE u.id = :user_id
    """
)
