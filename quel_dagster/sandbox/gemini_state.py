"""The state of the stand-in Gemini: rules, quota, request log."""

from __future__ import annotations

import hashlib
import random
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from quel_dagster.sandbox.gemini_requests import Wanted

LOG_LENGTH = 20_000


class Behaviour(StrEnum):
    """The answer that a request gets."""

    OK = "ok"
    RATE_LIMITED = "429"
    SERVER_ERROR = "500"
    UNAVAILABLE = "503"
    FORBIDDEN = "403"
    #: 400 INVALID_ARGUMENT about this request
    INVALID_ARGUMENT = "400"
    #: 400 with reason API_KEY_INVALID, as Google answers to a mistyped key
    BAD_KEY = "bad_key"
    NOT_FOUND = "404"
    REDIRECT = "302"
    #: never answers
    HANG = "hang"
    #: a good answer with a thinking model's drafts and some words before the picture
    THINKING = "thinking"
    #: sends its answer a few bytes at a time
    DRIP = "drip"
    #: answers `seconds` later than others
    SLOW = "slow"
    #: RST before any answer
    RESET = "reset"
    #: closes the connection in the middle of the answer's body
    CUT = "cut"
    TRUNCATED_JSON = "truncated_json"
    NOT_JSON = "not_json"
    #: JSON, but of another shape
    WRONG_SHAPE = "wrong_shape"
    EMPTY = "empty"
    WRONG_MIME = "wrong_mime"
    #: says image/png, holds bytes that are none
    NO_PICTURE = "no_picture"
    #: an inline image of zero bytes
    ZERO_BYTES = "zero_bytes"
    TEXT_ONLY = "text_only"
    #: the prompt is blocked
    SAFETY_BLOCK = "safety_block"
    #: the picture is blocked
    IMAGE_SAFETY = "image_safety"
    NO_IMAGE = "no_image"
    #: a good answer with a square picture, at every aspect ratio
    SQUARE = "square"
    #: `status` and `body` of the rule
    RAW = "raw"


class Rule(BaseModel):
    """A behaviour for some requests: the next `times`, those with `match` in the text, a share of them, or all."""

    model_config = ConfigDict(extra="forbid")

    behaviour: Behaviour
    #: how often it applies; None: until reset
    times: int | None = Field(None, ge=1)
    #: applies only to requests with this in the text (case ignored)
    match: str | None = None
    #: share of the fitting requests it applies to, drawn with `seed`
    probability: float = Field(1.0, ge=0, le=1)
    seed: int = 0
    #: seconds: the extra delay of `slow`, the pause between the drops of `drip`
    seconds: float = Field(0.05, ge=0)
    #: header Retry-After of 429 and 503, as is
    retry_after: str | None = None
    #: google.rpc.RetryInfo of 429, such as `3.5s`
    retry_info: str | None = None
    #: the message of a 400 or 403, instead of its usual one
    message: str | None = None
    #: of `raw`
    status: int = 200
    body: Any = None


@dataclass
class LoggedRequest:
    """One line of the request log."""

    #: 1, 2, 3 … in order of arrival
    id: int
    #: unix time of arrival, once the request was read
    time: float
    model: str
    #: `v1` or `v1beta`
    version: str
    #: sha256 of the text, first 16 digits
    digest: str
    excerpt: str
    #: image parts
    parts: int
    #: kinds of all parts in order, such as `image image text`
    kinds: str
    aspect_ratio: str
    #: `generationConfig` as it came
    config: dict[str, Any]
    #: the other fields of the request, but for its parts
    more: dict[str, Any]
    #: bytes of the request
    length: int
    #: requests in flight, this one included
    in_flight: int
    #: the behaviour applied; `pending` while under way; `disconnected` when the client disconnected first
    outcome: str = "pending"
    #: seconds until its end
    seconds: float | None = None


@dataclass
class _ArmedRule:
    rule: Rule
    left: int | None
    rng: random.Random


@dataclass
class StandInState:
    """The rules and the log of a server. Every method may be called from any thread."""

    latency: float = 0.0
    _rules: list[_ArmedRule] = field(default_factory=list)
    _quota: tuple[int, float] | None = None
    _admitted: deque[float] = field(default_factory=deque)
    _log: deque[LoggedRequest] = field(default_factory=lambda: deque(maxlen=LOG_LENGTH))
    _total: int = 0
    _in_flight: int = 0
    _max_in_flight: int = 0
    _lock: threading.Condition = field(default_factory=threading.Condition)

    def __post_init__(self) -> None:
        self._first_latency = self.latency

    # --- control -------------------------------------------------------------------------------------

    def add_rules(self, *rules: Rule) -> None:
        with self._lock:
            self._rules += [_ArmedRule(rule, rule.times, random.Random(rule.seed)) for rule in rules]  # noqa: S311

    def set_quota(self, requests: int | None, seconds: float = 60.0) -> None:
        """Admit at most `requests` in any `seconds`; None: any number."""
        with self._lock:
            self._quota = None if requests is None else (requests, seconds)
            self._admitted.clear()

    def reset(self) -> None:
        with self._lock:
            self._rules.clear()
            self._quota = None
            self._admitted.clear()
            self._log.clear()
            self._total = 0
            self._max_in_flight = self._in_flight
            self.latency = self._first_latency

    # --- requests ------------------------------------------------------------------------------------

    def arrived(self, version: str, model: str, wanted: Wanted) -> LoggedRequest:
        """Log a request."""
        with self._lock:
            self._total += 1
            self._in_flight += 1
            self._max_in_flight = max(self._max_in_flight, self._in_flight)
            entry = LoggedRequest(
                id=self._total,
                time=time.time(),
                model=model,
                version=version,
                digest=hashlib.sha256(wanted.text.encode()).hexdigest()[:16],
                excerpt=" ".join(wanted.text[:400].split())[:200],
                parts=wanted.kinds.count("image"),
                kinds=" ".join(wanted.kinds),
                aspect_ratio=wanted.picture.aspect_ratio,
                config=wanted.config,
                more=wanted.more,
                length=wanted.length,
                in_flight=self._in_flight,
            )
            self._log.append(entry)
            self._lock.notify_all()
            return entry

    def ended(self, entry: LoggedRequest, outcome: str) -> None:
        """Log the result of a request."""
        with self._lock:
            self._in_flight -= 1
            entry.outcome = outcome
            entry.seconds = round(time.time() - entry.time, 4)
            self._lock.notify_all()

    def decide(self, text: str) -> Rule:
        """Return the rule for the request with this text."""
        with self._lock:
            return self._fitting_rule(text.lower()) or self._within_quota()

    def delay(self, rule: Rule) -> float:
        """Return the seconds before an answer by this rule, with the present latency."""
        with self._lock:
            slow = rule.behaviour is Behaviour.SLOW and any(armed.rule is rule for armed in self._rules)
        return self.latency + (rule.seconds if slow else 0.0)

    def _fitting_rule(self, lowered: str) -> Rule | None:
        for armed in self._rules:
            if armed.left == 0 or (armed.rule.match and armed.rule.match.lower() not in lowered):
                continue
            if armed.rule.probability < 1 and armed.rng.random() >= armed.rule.probability:
                continue
            if armed.left is not None:
                armed.left -= 1
            return armed.rule
        return None

    def _within_quota(self) -> Rule:
        if self._quota is None:
            return Rule(behaviour=Behaviour.OK)
        most, window = self._quota
        now = time.monotonic()
        while self._admitted and self._admitted[0] <= now - window:
            self._admitted.popleft()
        if len(self._admitted) < most:
            self._admitted.append(now)
            return Rule(behaviour=Behaviour.OK)
        free_in = self._admitted[0] + window - now if self._admitted else window
        return Rule(behaviour=Behaviour.RATE_LIMITED, retry_info=f"{free_in:.3f}s")

    # --- reading -------------------------------------------------------------------------------------

    @property
    def requests(self) -> list[LoggedRequest]:
        with self._lock:
            return list(self._log)

    @property
    def in_flight(self) -> int:
        return self._in_flight

    @property
    def max_in_flight(self) -> int:
        return self._max_in_flight

    def wait_until(self, condition: Callable[[StandInState], bool], seconds: float = 60.0) -> None:
        """Block until the log fulfils a condition.

        Raises:
            TimeoutError: it does not in time.
        """
        with self._lock:
            if not self._lock.wait_for(lambda: condition(self), seconds):
                raise TimeoutError(f"Not seen within {seconds:g} s; last requests: {list(self._log)[-3:]}")

    def report(self, since: int = 0) -> dict[str, Any]:
        """Return the body of `GET /control/requests`."""
        with self._lock:
            return {
                "requests": [asdict(entry) for entry in self._log if entry.id > since],
                "in_flight": self._in_flight,
                "max_in_flight": self._max_in_flight,
                "total": self._total,
            }
