"""docs/models.md: Gemini's image models with their abilities, dates and prices.

Not here: the table (`quel_dagster/jobs/models.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import date

from quel_dagster.jobs.models import CHECKED, DEADLINES, FOURTEEN_RATIOS, MODELS, SIZES, TEN_RATIOS, ImageModel, Usage

_SOURCES = {
    "deprecations and shutdown dates": "https://ai.google.dev/gemini-api/docs/deprecations",
    "prices": "https://ai.google.dev/gemini-api/docs/pricing",
    "sizes, ratios, thinking": "https://ai.google.dev/gemini-api/docs/image-generation",
    "tokens by size": ("https://docs.cloud.google.com/vertex-ai/generative-ai/docs/models/gemini/3-1-flash-image"),
    "`gemini-nano-banana-2.1`: prices, and the end of `gemini-3.1-flash-image`": (
        "https://github.com/BerriAI/litellm/discussions/44983"
    ),
    "`gemini-nano-banana-2.1`: ratios and sizes": (
        "https://github.com/tanstack/ai/releases/tag/%40tanstack%2Fai-gemini%400.36.0"
    ),
    "`gemini-3.1-flash-lite-image`: 1K alone": "https://github.com/pollinations/pollinations/pull/12132",
}
_PAGE = """\
# Gemini's image models

For operators who choose `GEMINI_MODEL`. Made from `quel_dagster/jobs/models.py`: change it there, then
`make pages`. Last compared with Google's pages on {checked:%Y-%m-%d}; nothing here was
tried on the live API.

{dates}

{abilities}

Ten aspect ratios: {ten}. Fourteen: those and {more}. The thinking level in bold is Google's default. A call's
deadline is {deadlines}, unless `GEMINI_TIMEOUT_SECONDS` is set.

A model that is not in the table is asked for what all of them can do (ten ratios, no size, no thinking
level), its cost is unknown, and `quel doctor` warns.

## What a picture costs

USD per picture, without the input (about 1,120 tokens an image part) and the thoughts; USD per million
tokens. What a picture really took is computed from the tokens of its answers.

{prices}

## Sources

{sources}
"""


def models_page() -> str:
    """Return the whole page as markdown."""
    models = MODELS.values()
    return _PAGE.format(
        checked=CHECKED,
        dates=_table(("released", "deprecated", "shutdown", "replacement", "remark"), models, _dates),
        abilities=_table(
            ("`GEMINI_IMAGE_SIZE`", "aspect ratios", "image parts", "`GEMINI_THINKING`", "temperature sent"),
            models,
            _abilities,
        ),
        ten=" ".join(TEN_RATIOS),
        more=" ".join(FOURTEEN_RATIOS[len(TEN_RATIOS) :]),
        deadlines=", ".join(f"{seconds:g} s for {size}" for size, seconds in DEADLINES.items()),
        prices=_table((*SIZES, "input tokens", "words and thoughts", "image tokens"), models, _prices),
        sources="\n".join(f"- {what}: <{where}>" for what, where in _SOURCES.items()),
    )


def _table(heads: Sequence[str], models: Iterable[ImageModel], cells: Callable[[ImageModel], Sequence[str]]) -> str:
    rows = [("model", *heads), ("---",) * (len(heads) + 1), *((f"`{model.id}`", *cells(model)) for model in models)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _dates(model: ImageModel) -> Sequence[str]:
    def day(moment: date | None) -> str:
        return f"{moment:%Y-%m-%d}" if moment else ""

    replacement = f"`{model.replacement}`" if model.replacement else ""
    return day(model.released), day(model.deprecated), day(model.shutdown), replacement, model.remark


def _abilities(model: ImageModel) -> Sequence[str]:
    levels = (f"**{level}**" if level == model.default_thinking else level for level in model.thinking)
    return (
        " ".join(model.sizes),
        str(len(model.ratios)),
        str(model.references),
        " ".join(levels) or "cannot be set",
        "none" if model.temperature is None else f"{model.temperature:g}",
    )


def _prices(model: ImageModel) -> Sequence[str]:
    prices = model.prices
    if prices is None:
        return ("",) * (len(SIZES) + 3)
    pictures = (f"{model.cost(Usage(image=model.sizes[s])):.3f}" if s in model.sizes else "" for s in SIZES)
    return (*pictures, f"{prices.input:.2f}", f"{prices.text:.2f}", f"{prices.image:.2f}")
