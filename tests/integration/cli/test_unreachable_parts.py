"""An unreachable part is one readable line, within seconds, without a secret in it."""

from __future__ import annotations

from uuid import uuid4

import pytest

from quel_dagster.adapters.queue import JobQueue
from tests.integration.cli.conftest import Quel
from tests.integration.conftest import Look, Office

NOWHERE = "canary@127.0.0.1:9"


@pytest.mark.parametrize("words", [("list",), ("status", uuid4()), ("show", uuid4()), ("gallery", "--since", "1h")])
def test_postgresql_is_unreachable(quel: Quel, monkeypatch: pytest.MonkeyPatch, words: tuple[object, ...]) -> None:
    monkeypatch.setenv("DATABASE_URL", f"postgresql://quel:{NOWHERE}/quel")
    answer = quel.now(*words).wrong()
    assert answer.err == "quel: PostgreSQL: connection refused; check DATABASE_URL, and that the server runs.\n"
    assert answer.out == ""


def test_postgresql_lacks_our_tables(quel: Quel, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]) -> None:
    monkeypatch.setenv("DATABASE_URL", variables["DATABASE_URL"].rpartition("/")[0] + "/postgres")
    assert "`quel doctor` says which" in quel.now("list").wrong().err
    monkeypatch.setenv("DATABASE_URL", variables["DATABASE_URL"].rpartition("/")[0] + "/nowhere")
    assert "there is no such database" in quel.now("list").wrong().err


async def test_redis_is_unreachable(
    quel: Quel, office: Office, sql: Look, queue: JobQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    waiting, at_work = await office.job(1), await office.job(1)
    await office.processing(at_work)
    monkeypatch.setenv("REDIS_URL", f"redis://:{NOWHERE}/0")
    for words in (("dead", "list"), ("enqueue", waiting.job_id), ("retry", waiting.job_id)):
        answer = (await quel(*words)).wrong()
        assert answer.err.startswith("quel: Redis does not answer")
        assert "canary" not in answer.out + answer.err
    shown = (await quel("show", waiting.job_id)).ok().out
    assert "Redis does not answer" in shown
    assert "is unknown because a system does not answer" in shown
    cancelled = (await quel("cancel", "--wait", 0, at_work.job_id)).ok().out
    assert "but not the flag: Redis does not answer" in cancelled
    assert await sql.all("select 1 from quel_dagster.job_cancel where job_id = %s", at_work.job_id), "kept all the same"


def test_nothing_is_set_and_nothing_runs(
    quel: Quel, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]
) -> None:
    for name in variables:
        if name != "QUEL_HOME":
            monkeypatch.delenv(name)
    for words in (("list",), ("audit",), ("env",), ("dead", "list")):
        assert "No `quel up` is running" in quel.now(*words).wrong().err


def test_a_running_home_gives_what_the_environment_leaves_out(
    quel: Quel, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], endpoints: object
) -> None:
    home = str(endpoints.home)  # type: ignore[attr-defined]
    for name in variables:
        monkeypatch.delenv(name)
    monkeypatch.setenv("QUEL_HOME", home)
    assert quel.now("env", "--json").ok().data["QUEL_HOME"] == home
    assert "export DATABASE_URL=" in quel.now("env").ok().out
    quel.now("list").ok()
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    assert quel.now("status", "--json", uuid4()).wrong().err.startswith("quel: Not in quel_production_jobs")
