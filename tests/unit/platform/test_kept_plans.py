"""One plan for all runs of a job with configs that differ in their values only."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest
from dagster._core.execution.api import create_execution_plan
from dagster._core.remote_representation.code_location import GrpcServerCodeLocation
from dagster._core.snap import snapshot_from_execution_plan

from quel_dagster.definitions import defs
from quel_dagster.pipeline.assets import run_config
from quel_dagster.platform.kept_plans import keep_plans

SMALL = {"ops": {"load": {"config": {"job_id": "one"}}}}


class Location:
    """A code location that counts its questions."""

    def __init__(self) -> None:
        self.asked: list[Any] = []

    def plan(self, config: Any, *, job: Any = None, steps: Any = None, state: Any = None) -> Any:
        return GrpcServerCodeLocation.get_execution_plan(self, job or a_job(), config, steps, state)  # type: ignore[arg-type]


def a_job(snapshot: str = "a", **selected: Any) -> Any:
    nothing = {"op_selection": None, "asset_selection": None, "asset_check_selection": None}
    return SimpleNamespace(identifying_job_snapshot_id=snapshot, **{**nothing, **selected})


@pytest.fixture(autouse=True)
def _answers(monkeypatch: pytest.MonkeyPatch) -> None:
    def ask(self: Location, job: Any, config: Any, *more: Any) -> object:
        self.asked.append((job, config, *more))
        return object()

    monkeypatch.setattr(GrpcServerCodeLocation, "get_execution_plan", ask)
    keep_plans()
    keep_plans()  # a second time changes nothing


def test_the_value_of_an_id_is_in_no_plan() -> None:
    location = Location()
    other = {"ops": {"load": {"config": {"job_id": "other"}}}}
    assert location.plan(SMALL) is location.plan(other) is location.plan(SMALL)
    assert len(location.asked) == 1


@pytest.mark.parametrize(
    "config", [{}, {"ops": {"load": {"config": {"job_id": 1}}}}, {"ops": {"load": {"inputs": {"job_id": "one"}}}}]
)
def test_another_shape_of_config_has_its_own_plan(config: Any) -> None:
    location = Location()
    assert location.plan(SMALL) is not location.plan(config)


def test_another_job_or_code_has_its_own_plan() -> None:
    location, reloaded = Location(), Location()
    plans = [location.plan(SMALL), location.plan(SMALL, job=a_job("b")), reloaded.plan(SMALL)]
    assert len({id(plan) for plan in plans}) == 3


@pytest.mark.parametrize(
    "part",
    [
        {"steps": ["one"]},
        {"state": object()},
        {"job": a_job(op_selection=["one"])},
        {"job": a_job(asset_selection={"one"})},
        {"job": a_job(asset_check_selection=set())},
    ],
)
def test_a_plan_of_a_part_is_asked_each_time(part: dict[str, Any]) -> None:
    location = Location()
    assert location.plan(SMALL, **part) is not location.plan(SMALL, **part)


def test_plans_of_the_image_job_are_the_same_for_every_id() -> None:
    job = defs.resolve_job_def("image_job")
    plans = [snapshot_from_execution_plan(create_execution_plan(job, run_config(uuid4())), "job") for _ in range(2)]
    assert plans[0] == plans[1]
    assert plans[0].steps
