"""What `quel doctor` says of a Redis elsewhere: TLS, access rules, fullness, replicas."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
import trustme

from quel_dagster.cli.doctor.finding import Result
from quel_dagster.cli.doctor.redis_server import ACL_RULES, check_redis
from quel_dagster.settings import Settings
from tests.production.servers import OPERATIONS, free_port, system_redis


@pytest.fixture(autouse=True)
def _outside_the_tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def _wrong(url: str) -> str:
    """The one thing that is wrong."""
    (finding,) = [
        each for each in check_redis(Settings.read(_env_file=None, redis_url=url)) if each.result is not Result.OK
    ]
    return f"{finding.said}; {finding.remedy}"


@pytest.fixture
def port(tmp_path: Path) -> Iterator[int]:
    with system_redis(tmp_path) as port:
        yield port


@pytest.fixture
def server(port: int) -> Iterator[redis.Redis]:
    with redis.Redis(port=port) as client:
        yield client


def test_prescribed_rules_are_enough_and_a_missing_one_is_named(server: redis.Redis, port: int) -> None:
    server.execute_command("ACL", "SETUSER", "worker", "on", ">pw", *ACL_RULES.split())
    settings = Settings.read(_env_file=None, redis_url=f"redis://worker:pw@127.0.0.1:{port}/0")
    assert [finding for finding in check_redis(settings) if finding.result is not Result.OK] == []
    server.execute_command("ACL", "SETUSER", "worker", "reset", "on", ">pw", "~jobs:*", "~job:*", "+@all")
    said = _wrong(f"redis://worker:pw@127.0.0.1:{port}/0")
    assert said.startswith("a required command or key is not permitted; acl setuser")
    assert ACL_RULES in said
    assert f"acl setuser quel on >password {ACL_RULES}\n" in OPERATIONS.read_text(encoding="utf-8")


def test_a_full_redis_is_not_one_that_does_not_answer(server: redis.Redis, port: int) -> None:
    server.config_set("maxmemory", "1")
    assert _wrong(f"redis://127.0.0.1:{port}/0").startswith("it is full, and refuses writes; raise maxmemory")


def test_replica_is_named(server: redis.Redis, port: int) -> None:
    server.execute_command("REPLICAOF", "127.0.0.1", str(free_port()))
    assert _wrong(f"redis://127.0.0.1:{port}/0").startswith("it is a replica, and refuses writes; point REDIS_URL")


def test_tls_on_a_plain_port_is_named(port: int) -> None:
    assert _wrong(f"rediss://127.0.0.1:{port}/0").startswith("this port does not speak TLS; use redis://")


@pytest.mark.parametrize("character", ["/", "#", "?"])
def test_unescaped_character_of_the_password_is_named(character: str) -> None:
    said = _wrong(f"redis://default:canary{character}word@127.0.0.1:9/0")
    assert said == f"REDIS_URL: the password contains an unescaped {character!r}; write it as %{ord(character):02X}"


def test_a_password_alone_is_that_of_the_default_user() -> None:
    """redis-cli sends an empty user for `redis://:pw@`, and is refused."""
    settings = Settings.read(_env_file=None, redis_host="h", redis_password="p/w")
    assert settings.redis() == "redis://default:p%2Fw@h:6379/0"


# --- TLS -------------------------------------------------------------------------------------------------


@pytest.fixture
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def tls_port(authority: trustme.CA, tmp_path: Path) -> Iterator[int]:
    with system_redis(tmp_path, tls=authority.issue_cert("127.0.0.1")) as port:
        yield port


def test_plain_url_to_a_tls_port_is_named(tls_port: int) -> None:
    assert _wrong(f"redis://127.0.0.1:{tls_port}/0").startswith("this port requires TLS; use rediss://")


def test_unknown_authority_and_another_host_name_are_named(
    tls_port: int, authority: trustme.CA, tmp_path: Path
) -> None:
    url = f"rediss://127.0.0.1:{tls_port}/0"
    assert "not signed by a trusted authority; name the file" in _wrong(url)
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    settings = Settings.read(_env_file=None, redis_url=f"{url}?ssl_ca_certs={tmp_path / 'ca.pem'}")
    assert [finding.said for finding in check_redis(settings) if finding.result is not Result.OK] == []
    other = f"rediss://localhost:{tls_port}/0?ssl_ca_certs={tmp_path / 'ca.pem'}"
    assert "its certificate is for another host name" in _wrong(other)
