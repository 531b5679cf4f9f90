"""The upper limits of one job. A job beyond them is refused before it costs credits or calls."""

from __future__ import annotations

from pydantic import Field

from quel_dagster.jobs.model import Category, Value
from quel_dagster.jobs.model_choice import ModelChoice
from quel_dagster.jobs.models import DEFAULT_MODEL, model_of
from quel_dagster.settings import Settings


class Limits(Value):
    """The limits of one job (domain.md §4); each has its own setting."""

    max_images: int = Field(1_000, ge=1)
    #: stages, combinations or portraits
    max_units: int = Field(200, ge=1)
    #: characters of a prompt, and of a negative prompt
    max_prompt_length: int = Field(20_000, ge=1)
    max_references_per_unit: int = Field(50, ge=1)
    #: bytes of one job's references that are in memory at the same time
    max_reference_bytes: int = Field(200_000_000, ge=1)
    #: the model of each category
    models: ModelChoice = ModelChoice()
    #: aspect ratios and id of the job's model; set by `of_category`
    aspect_ratios: tuple[str, ...] = model_of(DEFAULT_MODEL).ratios
    model: str = DEFAULT_MODEL

    def of_category(self, category: Category) -> Limits:
        """Return these limits with the aspect ratios that the category's model makes."""
        model = self.models.model(category)
        return self.model_copy(update={"aspect_ratios": model.ratios, "model": model.id})

    @classmethod
    def of(cls, settings: Settings) -> Limits:
        """Return the limits that the settings give."""
        return cls(
            models=ModelChoice.of(settings),
            max_images=settings.max_images_per_job,
            max_units=settings.max_units_per_job,
            max_prompt_length=settings.max_prompt_length,
            max_references_per_unit=settings.max_references_per_unit,
            max_reference_bytes=settings.max_reference_megabytes * 10**6,
        )
