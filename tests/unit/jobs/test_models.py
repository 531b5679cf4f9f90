"""The table of models, and what is read from it."""

from __future__ import annotations

from datetime import date
from typing import Any
from uuid import uuid4

import pytest

from quel_dagster.errors import JobInputError, SettingsError
from quel_dagster.jobs.limits import Limits
from quel_dagster.jobs.model import Category, Job, JobStatus
from quel_dagster.jobs.model_choice import ModelChoice
from quel_dagster.jobs.models import DEADLINES, DEFAULT_MODEL, MODELS, SIZES, State, Usage, model_of, shape_is
from quel_dagster.jobs.planning import plan_job
from quel_dagster.settings import Settings

RETIRED = "gemini-2.5-flash-image"
PRO = "gemini-3-pro-image"


def test_every_row_is_complete() -> None:
    for model in MODELS.values():
        assert set(model.sizes) <= set(SIZES)
        assert model.default_thinking is None or model.default_thinking in model.thinking
        assert model.prices is not None
        assert model.replacement is None or MODELS[model.replacement].shutdown is None
        for size in model.sizes:
            assert model.seconds_for(size) == DEADLINES[size]


def test_default_of_the_settings_is_a_current_model() -> None:
    assert Settings.read(_env_file=None).gemini_model == DEFAULT_MODEL
    assert model_of(DEFAULT_MODEL).state(date(2026, 11, 27)) is State.CURRENT


@pytest.mark.parametrize(
    ("model", "day", "state"),
    [
        (RETIRED, date(2026, 10, 1), State.CURRENT),
        (RETIRED, date(2026, 10, 2), State.RETIRED),
        ("gemini-3.1-flash-image", date(2026, 10, 10), State.DEPRECATED),
        ("gemini-3.1-flash-image", date(2026, 10, 29), State.RETIRED),
        ("gemini-9-image", date(2026, 10, 29), State.UNKNOWN),
        (f"models/{DEFAULT_MODEL}", date(2026, 11, 1), State.CURRENT),
    ],
)
def test_state_follows_the_dates(model: str, day: date, state: State) -> None:
    assert model_of(model).state(day) is state


@pytest.mark.parametrize(
    ("model", "wanted", "made"),
    [(DEFAULT_MODEL, "2K", "2K"), (DEFAULT_MODEL, "512", "1K"), (RETIRED, "4K", "1K"), (PRO, "4K", "4K")],
)
def test_size_that_the_model_does_not_make_becomes_the_nearest_below(model: str, wanted: str, made: str) -> None:
    assert model_of(model).size_for(wanted) == made


@pytest.mark.parametrize(
    ("model", "size", "dollars"),
    # what Google's price page says of one picture
    [(DEFAULT_MODEL, "1K", 0.034), (PRO, "1K", 0.134), (PRO, "4K", 0.24), (RETIRED, "1K", 0.039)],
)
def test_picture_costs_what_the_price_page_says(model: str, size: str, dollars: float) -> None:
    row = model_of(model)
    assert row.cost(Usage(image=row.sizes[size])) == pytest.approx(dollars, abs=0.0006)


def test_cost_is_that_of_all_tokens() -> None:
    usage = Usage(input=2_000_000, image=1_000_000, text=2_000_000)
    assert model_of(DEFAULT_MODEL).cost(usage) == pytest.approx(2 * 1.5 + 30 + 2 * 7.5)
    assert model_of("gemini-9-image").cost(usage) is None


@pytest.mark.parametrize(
    ("size", "ratio", "right"),
    [
        ((1376, 768), "16:9", True),
        ((1024, 1024), "16:9", False),
        ((896, 1152), "4:5", True),
        ((1152, 864), "5:4", False),
        ((2752, 1536), "16:9", True),
        ((768, 1376), "16:9", False),
        ((1584, 672), "21:9", True),
    ],
)
def test_shape_of_a_picture(size: tuple[int, int], ratio: str, right: bool) -> None:
    assert shape_is(*size, ratio) is right


def job(ratio: str, path: str = "beauty") -> Job:
    return Job(
        job_id=uuid4(),
        production_id=uuid4(),
        job_type="simple_general",
        job_status=JobStatus.PENDING,
        total_images=1,
        input_data={"basePrompt": "x", "aspect-ratio": ratio},
        member_id=None,
        org_id=None,
        production_path=path,
    )


@pytest.mark.parametrize("ratio", ["4:1", "1:4", "8:1", "1:8"])
def test_wide_ratio_is_planned_where_the_model_makes_it(ratio: str) -> None:
    (unit,) = plan_job(job(ratio)).units
    assert unit.aspect_ratio == ratio


@pytest.mark.parametrize("ratio", ["4:1", "1:4", "8:1", "1:8"])
def test_wide_ratio_is_refused_where_the_model_cannot(ratio: str) -> None:
    limits = Limits(models=ModelChoice(default=PRO))
    with pytest.raises(JobInputError, match=f"aspect-ratio: {ratio}; {PRO} makes 1:1, 2:3"):
        plan_job(job(ratio), limits)


def test_model_of_the_category_decides() -> None:
    limits = Limits(models=ModelChoice(default=PRO, by_category={Category.CINEMA: DEFAULT_MODEL}))
    assert plan_job(job("8:1", "cinema"), limits).units[0].aspect_ratio == "8:1"
    with pytest.raises(JobInputError):
        plan_job(job("8:1", "eats"), limits)


def test_settings_name_models_by_category(monkeypatch: pytest.MonkeyPatch) -> None:
    for category in Category:
        monkeypatch.setenv(f"GEMINI_MODEL_{category.upper()}", f"model-of-{category}")
    monkeypatch.setenv("GEMINI_FALLBACK_MODELS", f"{PRO}, {DEFAULT_MODEL},")
    choice = ModelChoice.of(Settings.read(_env_file=None))
    assert {category: choice.model(category).id for category in Category} == {
        category: f"model-of-{category}" for category in Category
    }
    assert [model.id for model in choice.chain(Category.EATS, "16:9")] == ["model-of-eats", PRO, DEFAULT_MODEL]
    assert [model.id for model in choice.chain(Category.EATS, "8:1")] == ["model-of-eats", DEFAULT_MODEL]
    assert len(choice.all_models()) == 7


@pytest.mark.parametrize(
    ("choice", "words"),
    [
        (ModelChoice(), ()),
        (ModelChoice(default="gemini-9-image"), ("not in the table",)),
        (ModelChoice(default=RETIRED, size="2K"), ("past its shutdown date, 2026-10-02", "makes no 2K pictures: 1K")),
        (ModelChoice(default=PRO, thinking="high"), ("does not take the thinking level high",)),
    ],
)
def test_what_a_reader_of_a_run_should_know_about_its_model(choice: ModelChoice, words: tuple[str, ...]) -> None:
    found = choice.warnings(choice.model(), date(2026, 11, 27))
    assert len(found) == len(words)
    for warning, word in zip(found, words, strict=True):
        assert word in warning


def test_more_parts_than_the_model_takes_are_refused_by_name() -> None:
    choice = ModelChoice()
    assert [model.id for model in choice.chain(None, "1:1", unit="stage0", parts=14)] == [DEFAULT_MODEL]
    with pytest.raises(JobInputError, match=f"^stage0: 15 image parts; {DEFAULT_MODEL} takes at most 14"):
        choice.chain(None, "1:1", unit="stage0", parts=15)


@pytest.mark.parametrize("value", [{"GEMINI_IMAGE_SIZE": "3K"}, {"GEMINI_THINKING": "deep"}])
def test_size_or_level_that_no_model_has_is_named(value: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match=next(iter(value))):
        Settings.read(_env_file=None, **value)
