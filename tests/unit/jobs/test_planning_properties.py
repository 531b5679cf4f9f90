"""Properties of every plan, for any input of a browser."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any
from uuid import UUID

from hypothesis import given, settings
from hypothesis import strategies as st

from quel_dagster.errors import JobInputError
from quel_dagster.jobs.composing import compose, wanted_references
from quel_dagster.jobs.model import Job, JobStatus, Plan
from quel_dagster.jobs.planning import Limits, plan_job
from quel_dagster.jobs.quantities import share_out

LIMITS = Limits(max_images=40, max_units=6, max_prompt_length=60, max_references_per_unit=5)

texts = st.text(st.characters(codec=None), max_size=12)  # lone surrogates and NUL included
odd_numbers = st.sampled_from([10**400, -(10**400), 10**25, 1e308, float("nan"), float("inf"), -0.0, 2.0, 39070.0])
odd_texts = st.sampled_from(
    ["39070", "2.0", "", "undefined", "[1]", '{"attachId": 3}', "front", "tight", "\x00", "\ud800", "9" * 5000]
)
scalars = st.none() | st.booleans() | st.integers() | st.floats() | odd_numbers | texts | odd_texts
junk = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4), max_leaves=8
)


def seldom_junk(usual: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """What the web app writes, and once in a while something else; mostly good, so that most jobs are planned."""
    return st.integers(0, 19).flatmap(lambda n: usual if n else junk)


def loosely(**known: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """An object with some of its keys as the web app writes them, some as junk, some missing."""
    return st.fixed_dictionaries(
        {}, optional={name.replace("__", "-"): seldom_junk(usual) for name, usual in known.items()}
    )


ids = st.integers(1, 99) | st.integers(1, 99).map(float) | st.integers(1, 99).map(str)
kinds = st.sampled_from(["model", "top", "pants", "shoes", "bg", "background", "food", "actor", "none", "mystery"])
pictures = st.lists(seldom_junk(st.fixed_dictionaries({"attachId": ids, "type": kinds}) | ids), max_size=5)
amounts = st.integers(-1, 9) | st.sampled_from(["3", 2.0, None, "x"])
cameras = st.sampled_from(["front", "back", "side", "full", "tight", "middle", "Low Angle", "ECU", "", "정면"])
ratios = st.sampled_from(["1:1", "9:16", "16:9", "0:0"])
common = {"userId": st.uuids().map(str), "basePrompt": texts, "negative_prompt": texts, "aspect__ratio": ratios}
stage = loosely(
    stage_index=st.integers(-2, 9),
    prompt=texts,
    quantity=amounts,
    individualImageAttachIds=pictures,
    mergedImageAttachId=ids,
    cameraAngle=cameras,
    shotType=cameras,
    negative_prompt=texts,
    aspect__ratio=ratios,
    isPreEdited=st.booleans(),
)
combination = loosely(angle=cameras, shot=cameras, quantity=amounts, fx=texts)
portrait = loosely(mergedAttachId=ids, wrappingPrompt=texts, photoIndex=amounts)
documents = {
    "single_batch": loosely(
        **common,
        individualImageAttachIds=pictures,
        combinations=st.lists(seldom_junk(combination), max_size=6),
        angle=cameras,
        shotType=cameras,
    ),
    "pipeline_stage": loosely(**common, stages=st.lists(seldom_junk(stage), min_size=1, max_size=6)),
    "simple_general": loosely(**common, prompt=texts, uploadedAttachIds=pictures),
    "simple_portrait": loosely(**common, mergedImages=st.lists(seldom_junk(portrait), min_size=1, max_size=6)),
}


def job_of(job_type: st.SearchStrategy[str], document: st.SearchStrategy[Any]) -> st.SearchStrategy[Job]:
    return st.builds(
        Job,
        job_id=st.just(UUID(int=1)),
        production_id=st.just(UUID(int=2)),
        job_type=job_type,
        job_status=st.just(JobStatus.PENDING),
        total_images=st.integers(-2, 45),
        input_data=document,
        member_id=st.none(),
        org_id=st.none(),
        production_path=st.sampled_from(["fashion", "beauty", "eats", "cinema", "cartoon", None]) | texts,
    )


plausible_jobs = st.one_of(*(job_of(st.just(name), document) for name, document in documents.items()))
jobs = plausible_jobs | job_of(st.sampled_from(sorted(documents)) | texts, junk)


def planned(job: Job) -> Plan | None:
    """The plan, or None when the job is refused; any other exception fails the test."""
    try:
        return plan_job(job, LIMITS)
    except JobInputError as error:
        assert_storable(str(error))
        assert "\n" not in str(error)
        return None


def strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from strings(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from strings(item)


def assert_storable(text: str) -> None:
    text.encode("utf-8")
    assert "\x00" not in text


@settings(max_examples=600, deadline=None)
@given(jobs)
def test_a_job_is_refused_by_name_or_planned_to_the_picture(job: Job) -> None:
    plan = planned(job)
    if plan is None:
        return
    assert 1 <= plan.total <= LIMITS.max_images
    if job.total_images > 0:
        assert plan.total == job.total_images
    assert [unit.index for unit in plan.units] == list(range(len(plan.units)))
    keys = [unit.key for unit in plan.units]
    assert len(set(keys)) == len(keys)
    assert all(re.fullmatch("[A-Za-z0-9_]{1,80}", key) for key in keys)
    assert all(len(unit.references) <= LIMITS.max_references_per_unit + 1 for unit in plan.units)
    for text in strings(plan.model_dump()):
        assert_storable(text)
    assert Plan.model_validate_json(plan.model_dump_json()) == plan
    assert plan_job(job, LIMITS) == plan


@settings(max_examples=300, deadline=None)
@given(plausible_jobs, st.sets(st.integers(1, 99)))
def test_every_plan_can_be_composed(job: Job, available: set[int]) -> None:
    plan = planned(job)
    for unit in plan.units if plan else ():
        wanted = wanted_references(unit, plan.category)
        assert len(set(wanted)) == len(wanted)
        assert set(wanted) <= {reference.attach_id for reference in unit.references}
        everything = compose(unit, plan.category)
        assert {i for part in everything.parts for i in part.attach_ids} == set(wanted)
        some = compose(unit, plan.category, available)
        assert {i for part in some.parts for i in part.attach_ids} == set(wanted) & available
        for brief in (everything, some):
            numbered = [int(n) for n in re.findall(r"^Image (\d+) — ", brief.text, re.MULTILINE)]
            assert numbered[: len(brief.parts)] == list(range(1, len(brief.parts) + 1))
            for text in strings(brief.model_dump()):
                assert_storable(text)


quantities = st.lists(st.none() | st.integers(1, 50), min_size=1, max_size=12)


@given(st.integers(1, 100), quantities)
def test_shares_keep_their_invariant(total: int, asked: list[int | None]) -> None:
    shares = share_out(total, asked)
    assert sum(shares) == total
    assert min(shares) >= 0
    given_up = [i for i, quantity in enumerate(asked) if quantity is not None and shares[i] < quantity]
    for i in given_up:
        assert not any(shares[i + 1 :][j] for j, later in enumerate(asked[i + 1 :]) if later is not None)
        assert all(shares[j] == 0 for j, quantity in enumerate(asked) if quantity is None)
    more = [i for i, quantity in enumerate(asked) if quantity is not None and shares[i] > quantity]
    assert more in ([], [len(asked) - 1])
    assert not more or None not in asked
    open_shares = [share for share, quantity in zip(shares, asked, strict=True) if quantity is None]
    assert open_shares == sorted(open_shares, reverse=True)
    assert not open_shares or open_shares[0] - open_shares[-1] <= 1


@given(st.integers(max_value=0), quantities)
def test_without_a_total_the_given_quantities_stand(total: int, asked: list[int | None]) -> None:
    assert share_out(total, asked) == [quantity or 0 for quantity in asked]
