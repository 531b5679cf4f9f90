"""What the launcher asks of Celery, and how a worker that is gone is told from one that is busy."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from dagster import DagsterInstance, DagsterRunStatus, job, op
from dagster._core.launcher import WorkerStatus
from dagster._serdes import ConfigurableClassData

from quel_dagster.adapters.queue import celery_url
from quel_dagster.pipeline.launcher import CELERY_SETTINGS, KEY_PREFIX, QuelRunLauncher

TASK_TAG = "dagster-celery/task_id"


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://h:1/0", "redis://h:1/0"),
        ("rediss://h:1/0", "rediss://h:1/0?ssl_cert_reqs=required"),
        ("rediss://h:1/0?a=b", "rediss://h:1/0?a=b&ssl_cert_reqs=required"),
        ("rediss://h:1/0?ssl_cert_reqs=none", "rediss://h:1/0?ssl_cert_reqs=none"),
    ],
)
def test_certificates_are_verified_unless_somebody_says_otherwise(url: str, expected: str) -> None:
    assert celery_url(url) == expected


def launcher(**config: Any) -> QuelRunLauncher:
    data = ConfigurableClassData("quel_dagster.pipeline.launcher", "QuelRunLauncher", "{}")
    given = {"default_queue": "dagster", "broker": "rediss://h/0", "backend": "rediss://h/0", **config}
    return QuelRunLauncher.from_config_value(data, given)


def test_our_celery_settings_are_used_and_one_of_them_can_be_changed() -> None:
    made = launcher(config_source={"result_expires": 60})
    assert made.celery.conf.broker_url == "rediss://h/0?ssl_cert_reqs=required"
    assert made.celery.conf.result_expires == 60
    assert made.celery.conf.task_default_queue == "dagster"
    assert made.celery.conf.worker_prefetch_multiplier == 1
    assert made.celery.conf.broker_transport_options["global_keyprefix"] == KEY_PREFIX


def test_redelivery_stays_off() -> None:
    assert CELERY_SETTINGS["task_acks_late"] is False
    assert CELERY_SETTINGS["task_reject_on_worker_lost"] is False


def test_runs_are_not_resumed() -> None:
    assert launcher().supports_resume_run is False
    assert launcher().supports_check_run_worker_health


class Celery:
    """Answers as Celery's application does; the broker's own behaviour is tested with real workers elsewhere."""

    def __init__(self, state: str, info: Any = None, answer: Any = None) -> None:
        self.result = SimpleNamespace(state=state, info=info)
        self.answer = answer
        self.revoked: list[tuple[str, dict[str, Any]]] = []
        self.control = SimpleNamespace(
            revoke=lambda task_id, **how: self.revoked.append((task_id, how)),
            inspect=lambda hosts, **_: SimpleNamespace(query_task=lambda task_id: self.answer),
        )

    def AsyncResult(self, _task_id: str) -> Any:
        return self.result


@op
def nothing() -> None: ...


@job
def empty_job() -> None:
    nothing()


@pytest.mark.parametrize(
    ("celery", "status", "words"),
    [
        (Celery("FAILURE"), WorkerStatus.FAILED, "failed"),
        (Celery("STARTED", {"hostname": "w@h"}, {"w@h": {"t": ["active", {}]}}), WorkerStatus.RUNNING, None),
        (Celery("STARTED", {"hostname": "w@h"}, {"w@h": {}}), WorkerStatus.FAILED, "w@h no longer has this run"),
    ],
    ids=["failed", "busy", "lost"],
)
def test_the_health_of_a_run(celery: Celery, status: WorkerStatus, words: str | None) -> None:
    made = launcher()
    made.celery = celery  # type: ignore[assignment]
    with DagsterInstance.ephemeral() as instance:
        run = instance.create_run_for_job(empty_job, tags={TASK_TAG: "t"})
        health = made.check_run_worker_health(run)
    assert health.status is status
    assert words is None or words in (health.msg or "")


class Leases:
    """Of every run, or of none."""

    def __init__(self, live: bool) -> None:
        self.live = live

    def is_live(self, _run_id: str) -> bool:
        return self.live


#: nothing here says that somebody works on the run: the last is a second start of it, which Dagster ignored
GONE = [Celery("STARTED", {"hostname": "w@h"}, None), Celery("PENDING"), Celery("SUCCESS")]


@pytest.mark.parametrize("celery", GONE, ids=["silent", "forgotten", "over"])
def test_a_run_that_nobody_answers_for_is_given_up_after_a_moment(
    celery: Celery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run has no lease just before its claim and just after its end; Redis may have lost its memory then."""
    made = launcher()
    made.celery = celery  # type: ignore[assignment]
    made._leases = Leases(live=False)  # type: ignore[misc,assignment]
    with DagsterInstance.ephemeral() as instance:
        run = instance.create_run_for_job(empty_job, tags={TASK_TAG: "t"})
        assert made.check_run_worker_health(run).status is WorkerStatus.RUNNING
        monkeypatch.setattr("quel_dagster.pipeline.launcher.SUSPICION_SECONDS", 0.0)
        health = made.check_run_worker_health(run)
    assert health.status is WorkerStatus.FAILED
    assert "no live lease" in (health.msg or "")


@pytest.mark.parametrize("celery", GONE, ids=["silent", "forgotten", "over"])
def test_whoever_renews_the_lease_is_well_and_no_suspicion_stays(
    celery: Celery, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = launcher()
    made.celery = celery  # type: ignore[assignment]
    leases = made._leases = Leases(live=False)  # type: ignore[misc,assignment]
    with DagsterInstance.ephemeral() as instance:
        run = instance.create_run_for_job(empty_job, tags={TASK_TAG: "t"})
        made.check_run_worker_health(run)
        leases.live = True
        assert made.check_run_worker_health(run).status is WorkerStatus.RUNNING
        leases.live = False
        monkeypatch.setattr("quel_dagster.pipeline.launcher.SUSPICION_SECONDS", 1000.0)
        assert made.check_run_worker_health(run).status is WorkerStatus.RUNNING
        assert made._suspected.keys() == {run.run_id}


def test_a_dead_process_is_known_though_its_lease_still_lives() -> None:
    made = launcher()
    made.celery = Celery("FAILURE")  # type: ignore[assignment]
    made._leases = Leases(live=True)  # type: ignore[misc,assignment]
    with DagsterInstance.ephemeral() as instance:
        run = instance.create_run_for_job(empty_job, tags={TASK_TAG: "t"})
        assert made.check_run_worker_health(run).status is WorkerStatus.FAILED


def test_a_silent_worker_is_not_asked_again_at_once() -> None:
    made = launcher()
    made.celery = celery = Celery("STARTED", {"hostname": "w@h"}, None)  # type: ignore[assignment]
    assert made._ask("w@h", "t") is None
    celery.answer = {"w@h": {"t": ["active", {}]}}
    assert made._ask("w@h", "t") is None
    assert made._ask("v@h", "t") is False
    made._silent_until.clear()
    assert made._ask("w@h", "t") is True


def test_a_run_without_a_task_is_not_known_to_be_ill() -> None:
    with DagsterInstance.ephemeral() as instance:
        health = launcher().check_run_worker_health(instance.create_run_for_job(empty_job))
    assert health.status is WorkerStatus.UNKNOWN


def test_terminating_marks_the_run_and_interrupts_its_task() -> None:
    made = launcher()
    made.celery = celery = Celery("STARTED")  # type: ignore[assignment]
    with DagsterInstance.ephemeral() as instance:
        made.register_instance(instance)
        run = instance.create_run_for_job(empty_job, tags={TASK_TAG: "t"}, status=DagsterRunStatus.STARTED)
        assert made.terminate(run.run_id)
        after = instance.get_run_by_id(run.run_id)
        assert after is not None
        assert after.status is DagsterRunStatus.CANCELING
    assert celery.revoked == [("t", {"terminate": True, "signal": "SIGINT"})]


def test_a_finished_or_unknown_run_is_not_terminated() -> None:
    made = launcher()
    made.celery = celery = Celery("SUCCESS")  # type: ignore[assignment]
    with DagsterInstance.ephemeral() as instance:
        made.register_instance(instance)
        run = instance.create_run_for_job(empty_job, tags={TASK_TAG: "t"}, status=DagsterRunStatus.SUCCESS)
        assert not made.terminate(run.run_id)
        assert not made.terminate("unknown")
    assert celery.revoked == []
