"""Gemini's image models as data: abilities, shutdown dates and prices.

Responsibilities: the table, and every rule that is read from it (ratios, sizes, thinking, deadlines, cost).
Not here: which model a setting names (`model_choice`), the request itself (`adapters/gemini`).

docs/models.md is made from this table (`make pages`). Sources are named there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from enum import StrEnum
from types import MappingProxyType
from typing import Final

#: when the table was last compared with Google's pages
CHECKED: Final = date(2026, 11, 27)

TEN_RATIOS: Final = ("1:1", "2:3", "3:2", "3:4", "4:3", "4:5", "5:4", "9:16", "16:9", "21:9")
FOURTEEN_RATIOS: Final = (*TEN_RATIOS, "1:4", "4:1", "1:8", "8:1")
#: every ratio that one of the models makes
ALL_RATIOS: Final = frozenset(FOURTEEN_RATIOS)
SIZES: Final = ("512", "1K", "2K", "4K")
#: relative difference between width / height and the ratio asked for, above which a picture has another shape:
#: 4:3 and 5:4 are 6 % apart, and Gemini's pictures for 5:4 are 3 % off
SHAPE_TOLERANCE: Final = 0.045
#: from so long before its shutdown date on, a model is warned about
NEAR_SHUTDOWN: Final = timedelta(days=60)


class State(StrEnum):
    """The life-cycle state of a model."""

    CURRENT = "current"
    DEPRECATED = "deprecated"
    #: past its announced shutdown date; some keys may still reach it
    RETIRED = "retired"
    #: not in the table
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Prices:
    """USD per million tokens."""

    input: float
    #: words and thoughts
    text: float
    image: float


@dataclass(frozen=True, slots=True)
class Usage:
    """The tokens of one or several answers, as Google bills them (`usageMetadata`)."""

    input: int = 0
    image: int = 0
    #: words of the answer, and thoughts, at the same price
    text: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(self.input + other.input, self.image + other.image, self.text + other.text)


@dataclass(frozen=True, slots=True)
class ImageModel:
    """One row of the table."""

    id: str
    #: image size → tokens of a picture of that size
    sizes: Mapping[str, int]
    ratios: tuple[str, ...]
    #: image parts of a request at most
    references: int
    #: thinking levels that a request may name; empty: a request must name none
    thinking: tuple[str, ...] = ()
    default_thinking: str | None = None
    #: the only value that a request may carry; None: a request carries none
    temperature: float | None = None
    #: `imageSize` may stand in a request
    takes_size: bool = True
    prices: Prices | None = None
    released: date | None = None
    deprecated: date | None = None
    shutdown: date | None = None
    replacement: str | None = None
    known: bool = True
    remark: str = ""

    def state(self, today: date) -> State:
        """Return the life-cycle state on that day."""
        if not self.known:
            return State.UNKNOWN
        if self.shutdown is not None and today >= self.shutdown:
            return State.RETIRED
        return State.DEPRECATED if self.deprecated is not None and today >= self.deprecated else State.CURRENT

    def size_for(self, wanted: str) -> str:
        """Return the wanted size if the model makes it, else the largest below it, else its smallest."""
        able = [size for size in SIZES if size in self.sizes]
        below = [size for size in able if SIZES.index(size) <= SIZES.index(wanted)]
        return below[-1] if below else able[0]

    def thinking_for(self, wanted: str | None) -> str | None:
        """Return the thinking level to name in a request; None: name none."""
        return wanted if wanted in self.thinking else None

    def seconds_for(self, size: str) -> float:
        """Return the deadline of one call, in seconds: three to five times its usual duration."""
        return DEADLINES[size]

    def cost(self, usage: Usage) -> float | None:
        """Return the cost of these tokens in USD; None when the model's prices are unknown."""
        if self.prices is None:
            return None
        prices = self.prices
        return (usage.input * prices.input + usage.text * prices.text + usage.image * prices.image) / 1_000_000


#: seconds of one call by size; a call takes 15 to 40 s at 1K, longer at 4K
DEADLINES: Final[Mapping[str, float]] = MappingProxyType({"512": 120.0, "1K": 120.0, "2K": 180.0, "4K": 300.0})


def _sizes(**tokens: int) -> Mapping[str, int]:
    return MappingProxyType({name.removeprefix("s"): count for name, count in tokens.items()})


#: the model that Google recommends for new projects
DEFAULT_MODEL: Final = "gemini-nano-banana-2.1"

_TABLE: Final = (
    ImageModel(
        id=DEFAULT_MODEL,
        released=date(2026, 10, 6),
        sizes=_sizes(s1K=1120, s2K=1680, s4K=3780),
        ratios=FOURTEEN_RATIOS,
        references=14,
        thinking=("minimal", "medium", "high"),
        default_thinking="medium",
        prices=Prices(input=1.50, text=7.50, image=30.0),
        remark="recommended for new projects; the tokens of 2K are those of `gemini-3.1-flash-image`",
    ),
    ImageModel(
        id="gemini-3-pro-image",
        released=date(2026, 5, 28),
        sizes=_sizes(s1K=1120, s2K=1120, s4K=2000),
        ratios=TEN_RATIOS,
        references=14,
        prices=Prices(input=2.0, text=12.0, image=120.0),
        remark="always thinks; a level cannot be named",
    ),
    ImageModel(
        id="gemini-3.1-flash-lite-image",
        released=date(2026, 6, 30),
        sizes=_sizes(s1K=1120),
        ratios=TEN_RATIOS,
        references=14,
        thinking=("minimal", "high"),
        default_thinking="minimal",
        prices=Prices(input=0.25, text=1.50, image=30.0),
        remark="the fastest",
    ),
    ImageModel(
        id="gemini-3.1-flash-image",
        released=date(2026, 5, 28),
        deprecated=date(2026, 10, 6),
        shutdown=date(2026, 10, 29),
        replacement=DEFAULT_MODEL,
        sizes=_sizes(s512=747, s1K=1120, s2K=1680, s4K=2520),
        ratios=FOURTEEN_RATIOS,
        references=14,
        thinking=("minimal", "high"),
        default_thinking="minimal",
        prices=Prices(input=0.50, text=3.0, image=60.0),
        remark="on Vertex AI perhaps longer",
    ),
    ImageModel(
        id="gemini-2.5-flash-image",
        released=date(2025, 10, 2),
        shutdown=date(2026, 10, 2),
        replacement=DEFAULT_MODEL,
        sizes=_sizes(s1K=1290),
        ratios=TEN_RATIOS,
        references=14,
        temperature=0.45,
        takes_size=False,
        prices=Prices(input=0.30, text=2.50, image=30.0),
        remark="some keys still reach it; best with at most 3 references",
    ),
)

MODELS: Final[Mapping[str, ImageModel]] = MappingProxyType({model.id: model for model in _TABLE})


def model_of(name: str) -> ImageModel:
    """Return the model's row; an unknown model gets the abilities that all image models share."""
    model_id = name.removeprefix("models/")
    return MODELS.get(model_id) or ImageModel(
        id=model_id,
        sizes=_sizes(s1K=1120),
        ratios=TEN_RATIOS,
        references=14,
        takes_size=False,
        known=False,
    )


def shape_is(width: int, height: int, ratio: str) -> bool:
    """Return whether a picture of this size has the ratio asked for, such as `16:9`."""
    across, down = ratio.split(":")
    wanted = int(across) / int(down)
    return abs(width / height / wanted - 1) <= SHAPE_TOLERANCE
