"""Warnings and errors of the checks, and the checks of an audit."""

from __future__ import annotations

import time
from typing import Any
from uuid import uuid4

import pytest
from dagster import AssetCheckSeverity

from quel_dagster.adapters.database.figures import Backlog, Group
from quel_dagster.engine.outcomes import JobOutcome
from quel_dagster.jobs.model import Job, JobStatus
from quel_dagster.pipeline.audit import INVARIANTS, AuditReport, Breach, Finding
from quel_dagster.pipeline.audit_checks import _CHECKS, results_of
from quel_dagster.pipeline.checks import of_job, of_last_hour, of_queue
from quel_dagster.pipeline.observations import QUIET_SECONDS, _should_record
from quel_dagster.pipeline.sensors import summary_of

WARN, ERROR = AssetCheckSeverity.WARN, AssetCheckSeverity.ERROR
JOB = Job(
    job_id=uuid4(),
    production_id=uuid4(),
    job_type="single_batch",
    job_status=JobStatus.PENDING,
    total_images=4,
    input_data={},
    member_id=uuid4(),
    org_id=None,
    production_path="eats",
)


def ended(status: JobStatus, completed: int, failed: int, balance: int | None = 1000, error: str | None = None) -> Any:
    return JobOutcome(
        job_id=JOB.job_id,
        status=status,
        completed=completed,
        failed=failed,
        attach_ids=(),
        error=error,
        made_now=completed,
        charged_now=20 * completed,
        payer="member 7",
        balance=balance,
        price=20,
    )


def of(outcome: JobOutcome) -> dict[str, Any]:
    return {found.check_name: found for found in of_job(outcome)}


def group(status: str, jobs: int, partial: int = 0) -> Group:
    return Group(
        category="eats", status=status, jobs=jobs, partial=partial, pictures=jobs, failed=0, waited=(), worked=()
    )


@pytest.mark.parametrize(
    ("groups", "passed", "severity"),
    [
        ((), True, None),
        ((group("completed", 4), group("processing", 9)), True, None),
        ((group("completed", 4, partial=1),), False, WARN),
        ((group("completed", 99), group("failed", 1)), False, WARN),
        ((group("completed", 1), group("failed", 1)), False, ERROR),
        ((group("user_cancelled", 3), group("cancelled", 3)), True, None),
    ],
)
def test_pictures_of_the_last_hour(groups: Any, passed: bool, severity: Any) -> None:
    found = of_last_hour(groups)
    assert (found.check_name, found.passed) == ("every_picture_made", passed)
    assert severity is None or found.severity is severity


def test_the_check_counts_and_leads_to_the_jobs() -> None:
    found = of_last_hour((group("completed", 8, partial=2), group("failed", 1)))
    assert found.description == "Last hour: 9 jobs ended, 2 with pictures missing, 1 with none"
    assert found.metadata["which"].value == "/quel/jobs?ended=1h&status=failed&status=partial"


@pytest.mark.parametrize(
    ("balance", "passed", "severity"), [(100, True, None), (99, False, WARN), (20, False, WARN), (19, False, ERROR)]
)
def test_a_low_balance(balance: int, passed: bool, severity: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUEL_WARN_BALANCE", "100")
    found = of(ended(JobStatus.COMPLETED, 4, 0, balance=balance))["balance_is_enough"]
    assert found.passed is passed
    assert severity is None or found.severity is severity


def test_a_run_without_a_balance_yields_no_balance_check() -> None:
    assert set(of(ended(JobStatus.COMPLETED, 4, 0, balance=None))) == set()


def waiting(pending: int = 0, oldest: float | None = None) -> Backlog:
    return Backlog(
        pending=pending,
        processing=0,
        oldest_waiting_seconds=oldest,
        oldest_waiting_job="j" if pending else None,
        leases=0,
        newest_attach_id=None,
    )


@pytest.mark.parametrize(
    ("oldest", "passed", "severity"),
    [(None, True, None), (300.0, True, None), (301.0, False, WARN), (1200.0, False, WARN), (1201.0, False, ERROR)],
)
def test_a_queue_that_stands_still(oldest: float | None, passed: bool, severity: Any) -> None:
    moving, _ = of_queue(waiting(1 if oldest else 0, oldest), 0, warn_seconds=300)
    assert moving.passed is passed
    assert severity is None or moving.severity is severity


def test_dead_letters_are_a_warning_that_names_the_command() -> None:
    _, dead = of_queue(waiting(), 2, warn_seconds=300)
    assert (dead.passed, dead.severity) == (False, WARN)
    assert dead.description is not None
    assert "quel dead" in dead.description


def report(**findings: Finding) -> AuditReport:
    return AuditReport(
        findings=tuple(
            findings.get(code, Finding(code=code, sentence=sentence, checked=3))
            for code, sentence in INVARIANTS.items()
        ),
        seconds=0.1,
    )


def test_every_invariant_belongs_to_exactly_one_check() -> None:
    named = [code for _, codes, _ in _CHECKS.values() for code in codes]
    assert sorted(named) == sorted(INVARIANTS)


def test_a_clean_audit_passes_every_check() -> None:
    results = results_of(report())
    assert all(result.passed for result in results)
    assert len(results) == len(_CHECKS)


def test_a_breach_is_an_error_of_its_own_check_with_the_remedy() -> None:
    breach = Breach(code="I3", kind="unpaid", ids={"attach": "7"}, problem="picture 7 is unpaid", remedy="charge it")
    results = {
        result.check_name: result
        for result in results_of(report(I3=Finding(code="I3", sentence="", breaches=(breach,), total=1)))
    }
    failed = results.pop("ledger_agrees_with_pictures")
    assert (failed.passed, failed.severity) == (False, ERROR)
    assert failed.description == "1 breach. picture 7 is unpaid; charge it."
    assert all(result.passed for result in results.values())


def test_an_unchecked_invariant_does_not_pass() -> None:
    (result,) = [
        result
        for result in results_of(report(I12=Finding(code="I12", sentence="", not_done="the store does not answer")))
        if not result.passed
    ]
    assert (result.check_name, result.severity) == ("objects_exist_and_decode", WARN)


def test_a_quiet_minute_is_written_down_only_now_and_then() -> None:
    state: dict[str, object] = {"queue_depth": 0}
    now = time.time()
    just_now, long_ago = (f'{{"at": {at}, "queue_depth": 0}}' for at in (now - 60, now - QUIET_SECONDS - 1))
    assert _should_record(None, state, waiting())
    assert not _should_record(just_now, state, waiting())
    assert _should_record(long_ago, state, waiting())
    assert _should_record(just_now, {"queue_depth": 1}, waiting())
    assert _should_record(just_now, state, waiting(1, 2.0)), "a job waits: the plot needs the point"


@pytest.mark.parametrize(
    ("did", "said"),
    [
        ({"launched": 3}, "launched 3"),
        (
            {"to jobs:dead: not a UUID": 1, "launched": 3, "duplicate": 1},
            "launched 3, 1 to jobs:dead: not a UUID, 1 duplicate",
        ),
        ({"launched": 1, "duplicate": 9}, "launched 1, 9 duplicates"),
        ({"without a row yet": 2}, "launched 0, 2 without a row yet"),
    ],
)
def test_a_tick_shows_its_result(did: dict[str, int], said: str) -> None:
    assert summary_of(did) == said
