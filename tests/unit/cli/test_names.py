"""Variables that nothing reads, and look like one that is read."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import quel_dagster
from quel_dagster.cli.doctor.names import meant_by


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("QUEL_WORKER", "QUEL_WORKERS"),
        ("IMAGE_PRICE_PER", None),
        ("IMAGE_PER_PRIZE", "IMAGE_PER_PRICE"),
        ("REDIS_PASWORD", "REDIS_PASSWORD"),
        ("DATABASE_URI", "DATABASE_URL"),
        ("SUPABASE_SERVICE_ROLE_KEY", "SUPABASE_SERVICE_KEY"),
        ("QUEL_SOMETHING_ELSE", ""),
        ("QUEL_WORKERS", None),
        ("PATH", None),
        ("HOSTNAME", None),
        ("PGHOST", None),
    ],
)
def test_near_miss_names_the_setting_that_was_meant(name: str, meant: str | None) -> None:
    assert meant_by(name) == meant


def test_name_with_a_similar_setting_beside_it_is_no_near_miss() -> None:
    assert meant_by("DATABASE_URI", {"DATABASE_URL"}) is None


def test_no_variable_that_the_code_reads_is_warned_of() -> None:
    """Otherwise `quel doctor` would warn about the program's own variables."""
    texts = [path.read_text() for path in Path(quel_dagster.__file__).parent.rglob("*.py")]
    read = {name for text in texts for name in re.findall(r"""[\["'(](QUEL_[A-Z_]+)["']""", text)}
    assert {name for name in read - {"QUEL_"} if meant_by(name) is not None} == set()
