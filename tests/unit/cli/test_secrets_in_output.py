"""Nothing that a command prints holds a secret, but for the one command that is asked for them."""

from __future__ import annotations

import json

import pytest

from quel_dagster.cli.output import print_facts, print_json, print_table, print_text
from quel_dagster.redaction import MASK, learn

CANARY = "canary-of-printed-things"


@pytest.fixture(autouse=True)
def _taught() -> None:
    learn(CANARY)


def test_every_way_of_printing(capsys: pytest.CaptureFixture[str]) -> None:
    print_text(f"a line: {CANARY}, redis://:pw@h")
    print_json({"error": [f"bad key {CANARY}"]})
    print_facts([("error", f"bad key {CANARY}")])
    print_table(["job", "~error"], [["1", f"bad key {CANARY}"]])
    out = capsys.readouterr().out
    assert CANARY not in out
    assert out.count(MASK) == 5
    assert f"a line: {MASK}, redis://:{MASK}@h\n" in out


def test_what_was_asked_for_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    url = f"redis://:{CANARY}@h/0"
    print_text(f"export REDIS_URL={url}", secrets=True)
    print_json({"REDIS_URL": url}, secrets=True)
    first, _, rest = capsys.readouterr().out.partition("\n")
    assert first == f"export REDIS_URL={url}"
    assert json.loads(rest) == {"REDIS_URL": url}
