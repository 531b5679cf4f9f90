"""`quel plan`: the units, the texts and the cost of a job file, with no service."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from quel_dagster.cli.main import app

EXAMPLES = Path(__file__).parents[3] / "docs" / "examples"


def plan(*words: object) -> str:
    result = CliRunner().invoke(app, ["plan", *map(str, words)])
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.mark.parametrize("file", sorted(EXAMPLES.glob("*.json")), ids=lambda file: file.stem)
def test_every_example_is_planned_without_a_repair(file: Path, tmp_path: Path) -> None:
    photo = tmp_path / "photo.png"
    Image.new("RGB", (64, 64), "red").save(photo)
    data = json.loads(plan(file, "--reference", f"model={photo}", "--json"))
    assert data["pictures"] == json.loads(file.read_text(encoding="utf-8"))["total_images"]
    assert data["credits"] == data["pictures"] * 20
    assert data["repairs"] == []
    assert all("Image 1" in unit["brief"]["text"] for unit in data["units"])


def test_plan_shows_request_and_price() -> None:
    out = plan(EXAMPLES / "fashion.json")
    assert "combo0_front_full" in out
    assert "Autumn lookbook on a quiet street" in out
    assert "4 pictures for 80 credits (20 a picture)." in out


def test_a_reference_that_is_no_picture_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no picture")
    for word in (f"model={tmp_path / 'notes.txt'}", f"model={tmp_path / 'none.png'}", "photo.png", "=photo.png"):
        result = CliRunner().invoke(app, ["plan", str(EXAMPLES / "fashion.json"), "--reference", word])
        assert result.exit_code == 1
        assert result.stderr.count("\n") == 1
