"""What a test does without a part that it needs from outside of this repository."""

from __future__ import annotations

import os
from typing import NoReturn

import pytest


def skip_or_fail(reason: str) -> NoReturn:
    """Skip with the reason; fail where everything was asked for (`make production`)."""
    if os.environ.get("SKIP_NO_TESTS"):
        pytest.fail(reason)
    pytest.skip(reason)
