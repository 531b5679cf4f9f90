"""Check Redis: reachable, new enough, writable by this user, and configured not to lose the queue."""

from __future__ import annotations

import secrets
import socket
import ssl
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from quel_dagster.adapters.intake import Pauser, intake_pauses
from quel_dagster.adapters.queue import DEAD, PROCESSING, QUEUE
from quel_dagster.adapters.redis_connection import unreachable
from quel_dagster.cli.doctor.finding import Finding, Part
from quel_dagster.console.words import plural
from quel_dagster.settings import Settings

#: LMOVE and BLMOVE
OLDEST_VERSION = (6, 2)
TIMEOUT_SECONDS = 5.0
#: of maxmemory
FULL = 0.9
_LOOPBACK = {"localhost", "127.0.0.1", "::1"}
#: the commands and keys of this project and Celery, tested by tests/production/test_redis_rules.py
ACL_RULES = "~jobs:* ~job:* ~quel:* ~quel_dagster:* &quel_dagster:* +@all -@admin -@dangerous +info"

_part = Part("Redis")


def check_redis(settings: Settings) -> Iterator[Finding]:
    """Yield every finding about Redis."""
    url = settings.redis()
    if url is None:
        yield _part.failed("REDIS_URL is not set", "set it, or start `quel up`")
        return
    if (unescaped := unescaped_in_password(url)) is not None:
        yield _part.failed(
            f"REDIS_URL: the password contains an unescaped {unescaped!r}", f"write it as %{ord(unescaped):02X}"
        )
        return
    try:
        client: Any = redis.Redis.from_url(
            url,
            socket_connect_timeout=TIMEOUT_SECONDS,
            socket_timeout=TIMEOUT_SECONDS,
            retry=Retry(NoBackoff(), 0),
        )
    except ValueError:
        yield _part.failed("REDIS_URL is not a Redis URL", "use redis://host:6379/0, or rediss://… for TLS")
        return
    with client:
        try:
            yield from _look(client, url)
            for pause in intake_pauses(client):
                remedy = "quel resume" if pause.pauser is Pauser.OPERATOR else "it ends when a probe of Gemini succeeds"
                yield _part.warning(f"{pause}", remedy)
        except redis.AuthenticationError:
            yield _part.failed("user or password refused", "check REDIS_URL, or REDIS_USERNAME and REDIS_PASSWORD")
        except redis.exceptions.NoPermissionError:
            yield _part.failed("a required command or key is not permitted", f"acl setuser <its user> {ACL_RULES}")
        except redis.RedisError as error:
            yield _trouble(error, url)


def unescaped_in_password(url: str) -> str | None:
    """Return a character that ends the password of the URL too early; None when there is none."""
    scheme, _, rest = url.partition("://")
    login = rest.rpartition("@")[0]
    if not scheme.startswith("redis") or not login:
        return None
    return next((character for character in "/?#" if character in login), None)


def _trouble(error: redis.RedisError, url: str) -> Finding:
    """Explain an error to the person who wrote the URL."""
    text = str(error)
    if text.startswith("OOM") or "maxmemory" in text:
        return _part.failed("it is full, and refuses writes", "raise maxmemory, or remove what fills it")
    if "READONLY" in text or isinstance(error, redis.exceptions.ReadOnlyError):
        return _part.failed("it is a replica, and refuses writes", "point REDIS_URL at the primary")
    if "MISCONF" in text:
        return _part.failed("it cannot save to its disk, and refuses writes", "free its disk, and see the log of Redis")
    if "LOADING" in text:
        return _part.failed("it is still loading its data", "try again in a moment")
    if "CERTIFICATE_VERIFY_FAILED" in text or "certificate verify failed" in text:
        if "ostname mismatch" in text or "IP address mismatch" in text:
            return _part.failed("its certificate is for another host name", "use that name in REDIS_URL")
        return _part.failed(
            "its certificate is not signed by a trusted authority",
            "name the file of the authority: rediss://…/0?ssl_ca_certs=/path/authority.pem",
        )
    encrypted = urlsplit(url).scheme == "rediss"
    if encrypted and _speaks_plainly(url):
        return _part.failed("this port does not speak TLS", "use redis://, or REDIS_USE_TLS=false, or its TLS port")
    if not encrypted and _speaks_tls(url):
        return _part.failed("this port requires TLS", "use rediss://, or REDIS_USE_TLS=true")
    return _part.failed(str(unreachable(error)).partition(";")[0], "check REDIS_URL, and that the server runs")


def _speaks_tls(url: str) -> bool:
    """Return whether a TLS handshake succeeds. Nothing is sent, so the certificate need not be verified."""
    parts = urlsplit(url)
    anyone = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    anyone.check_hostname = False
    anyone.verify_mode = ssl.CERT_NONE
    address = (parts.hostname or "localhost", parts.port or 6379)
    try:
        with (
            socket.create_connection(address, timeout=TIMEOUT_SECONDS) as plain,
            anyone.wrap_socket(plain, server_hostname=address[0]),
        ):
            return True
    except ssl.SSLError as error:
        # a server that requires a client certificate speaks TLS too
        return "CERTIFICATE_REQUIRED" in str(error) or "handshake failure" in str(error).lower()
    except OSError:
        return False


def _speaks_plainly(url: str) -> bool:
    """Return whether Redis answers without TLS. Even without a password, a PING is answered with an error."""
    parts = urlsplit(url)
    address = (parts.hostname or "localhost", parts.port or 6379)
    try:
        with socket.create_connection(address, timeout=TIMEOUT_SECONDS) as plain:
            plain.sendall(b"PING\r\n")
            return plain.recv(16).startswith((b"+PONG", b"-NOAUTH", b"-NOPERM", b"-DENIED"))
    except OSError:
        return False


def _look(client: Any, url: str) -> Iterator[Finding]:
    client.ping()
    info = client.info()
    version = str(info.get("redis_version", "0"))
    if tuple(int(part) for part in version.split(".")[:2] if part.isdigit()) < OLDEST_VERSION:
        yield _part.failed(f"version {version}", "upgrade to Redis 6.2 or newer: ids are moved with LMOVE")
        return
    yield _part.ok(f"version {version}")
    _move_an_entry(client)
    yield _part.ok("entries can be moved between lists")
    yield _memory(info)
    yield _persistence(info)
    parts = urlsplit(url)
    if parts.scheme == "redis" and (parts.hostname or "localhost") not in _LOOPBACK:
        yield _part.warning("the connection is not encrypted", "use rediss://, or REDIS_USE_TLS=true")
    yield from _lists(client)


def _move_an_entry(client: Any) -> None:
    """Move an entry as the queue does, between test keys that expire."""
    source = f"quel_dagster:doctor:{secrets.token_hex(6)}"
    target = f"{source}:taken"
    batch = client.pipeline(transaction=True)
    batch.lpush(source, "probe")
    batch.expire(source, 60)
    batch.lmove(source, target, "RIGHT", "LEFT")
    batch.delete(source, target)
    batch.execute()


def _memory(info: dict[str, Any]) -> Finding:
    limit, used = info.get("maxmemory", 0), info.get("used_memory", 0)
    policy = info.get("maxmemory_policy", "noeviction")
    if limit and policy != "noeviction":
        return _part.failed(
            f"maxmemory-policy is {policy}: queued ids may be evicted", "config set maxmemory-policy noeviction"
        )
    if limit and used > FULL * limit:
        return _part.warning(f"{used / limit:.0%} of maxmemory is used", "raise maxmemory: a full Redis refuses pushes")
    return _part.ok(f"nothing is evicted ({policy}{'' if limit else ', no memory limit'})")


def _persistence(info: dict[str, Any]) -> Finding:
    if info.get("aof_enabled"):
        if info.get("aof_last_write_status", "ok") != "ok":
            return _part.failed("the append-only file cannot be written", "free its disk, and see the log of Redis")
        return _part.ok("survives a restart (append-only file)")
    if info.get("rdb_last_bgsave_status", "ok") != "ok":
        return _part.failed("snapshots cannot be written", "free its disk, and see the log of Redis")
    return _part.warning(
        "no append-only file: a restart loses what was pushed since the last snapshot",
        "config set appendonly yes; until then the sweep recovers such jobs after a minute or two",
    )


def _lists(client: Any) -> Iterator[Finding]:
    names = (QUEUE, PROCESSING, DEAD)
    for name in names:
        kind = client.type(name).decode()
        if kind not in {"none", "list"}:
            yield _part.failed(f"{name} is a {kind}, not a list", "find out who wrote it, then delete it")
            return
    queue, processing, dead = (client.llen(name) for name in names)
    yield _part.ok(f"{queue:,} waiting, {processing:,} being launched")
    if dead:
        yield _part.warning(f"{plural(dead, 'dead letter')} in {DEAD}", "quel dead list")
