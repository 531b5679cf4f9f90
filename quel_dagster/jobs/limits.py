"""What a job may ask for at most; beyond it the job is refused before anything is spent."""

from __future__ import annotations

from pydantic import Field

from quel_dagster.jobs.model import Value
from quel_dagster.settings import Settings


class Limits(Value):
    """The sane limits of one job (domain.md §4); each has a setting of its own."""

    max_images: int = Field(1_000, ge=1)
    #: stages, combinations or portraits
    max_units: int = Field(200, ge=1)
    #: characters of a prompt, and of a negative prompt
    max_prompt_length: int = Field(20_000, ge=1)
    max_references_per_unit: int = Field(50, ge=1)

    @classmethod
    def of(cls, settings: Settings) -> Limits:
        """The limits that the environment sets."""
        return cls(
            max_images=settings.max_images_per_job,
            max_units=settings.max_units_per_job,
            max_prompt_length=settings.max_prompt_length,
            max_references_per_unit=settings.max_references_per_unit,
        )
