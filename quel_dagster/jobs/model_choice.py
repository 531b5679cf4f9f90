"""The models that the settings name: one per category, the fallbacks, size and thinking level."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date

from pydantic import Field

from quel_dagster.errors import JobInputError
from quel_dagster.jobs.model import Category, Value
from quel_dagster.jobs.models import DEFAULT_MODEL, ImageModel, State, model_of
from quel_dagster.settings import Settings


class ModelChoice(Value):
    """The model settings of an installation."""

    default: str = DEFAULT_MODEL
    by_category: Mapping[Category, str] = Field(default_factory=dict)
    #: tried in order when the first model is retired or stays overloaded
    fallbacks: tuple[str, ...] = ()
    size: str = "1K"
    #: None: the model's own default
    thinking: str | None = None

    @classmethod
    def of(cls, settings: Settings) -> ModelChoice:
        """Return the model settings of the environment."""
        own = {category: getattr(settings, f"gemini_model_{category}") for category in Category}
        return cls(
            default=settings.gemini_model,
            by_category={category: name for category, name in own.items() if name},
            fallbacks=tuple(name for word in settings.gemini_fallback_models.split(",") if (name := word.strip())),
            size=settings.gemini_image_size,
            thinking=settings.gemini_thinking,
        )

    def model(self, category: Category | None = None) -> ImageModel:
        """Return the model that is asked first for this category."""
        return model_of(self.by_category.get(category, self.default) if category else self.default)

    def chain(self, category: Category | None, ratio: str, *, unit: str = "", parts: int = 0) -> tuple[ImageModel, ...]:
        """Return the models to ask, in order: the category's own, then the fallbacks that can make this picture.

        Args:
            unit: key of the unit, for the error.
            parts: image parts of the request.

        Raises:
            JobInputError: the category's model does not take so many parts.
        """
        first = self.model(category)
        if parts > first.references:
            problem = f"{parts} image parts; {first.id} takes at most {first.references}: give it fewer references"
            raise JobInputError(unit, problem)
        rest = (model_of(name) for name in self.fallbacks)
        return (
            first,
            *(model for model in rest if model.id != first.id and ratio in model.ratios and parts <= model.references),
        )

    def warnings(self, model: ImageModel, today: date) -> tuple[str, ...]:
        """Return what a reader of a run should know about the model that is asked first."""
        found = []
        state = model.state(today)
        if state is State.UNKNOWN:
            found.append(
                f"{model.id} is not in the table of models: it is asked for what all models can do, "
                "and its cost is unknown."
            )
        elif state is State.RETIRED:
            found.append(f"{model.id} is past its shutdown date, {model.shutdown:%Y-%m-%d}; set GEMINI_MODEL.")
        if (size := model.size_for(self.size)) != self.size:
            found.append(f"{model.id} makes no {self.size} pictures: {size} is made.")
        if self.thinking is not None and model.thinking_for(self.thinking) is None:
            found.append(f"{model.id} does not take the thinking level {self.thinking}: its own is used.")
        return tuple(found)

    def all_models(self) -> tuple[ImageModel, ...]:
        """Return every model that a setting names, each once."""
        names = dict.fromkeys([self.default, *self.by_category.values(), *self.fallbacks])
        return tuple(model_of(name) for name in names)
