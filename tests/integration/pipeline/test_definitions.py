"""Loading the definitions: with nothing set, and with every resource replaced."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from dagster import AssetKey, build_resources, in_process_executor

from quel_dagster.definitions import build_defs, defs
from quel_dagster.engine.engine import Engine
from quel_dagster.errors import SettingsError
from quel_dagster.pipeline.assets import run_config
from quel_dagster.pipeline.resources import EngineResource, QueueResource

ROOT = Path(__file__).parents[3]


def test_they_load_with_an_empty_environment(tmp_path: Path) -> None:
    done = subprocess.run(
        [
            "env",
            "-i",
            f"PYTHONPATH={ROOT}",
            sys.executable,
            "-c",
            "from quel_dagster.definitions import defs; print(defs.resolve_job_def('image_job').name)",
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "image_job"
    assert list(tmp_path.iterdir()) == [], "loading them writes nothing"


def test_the_lineage() -> None:
    graph = defs.resolve_asset_graph()
    sources = {AssetKey("quel_production_jobs"), AssetKey("quel_attach")}
    images = AssetKey("generated_images")
    assert graph.get(images).parent_keys == sources
    assert graph.get(AssetKey("quel_production_photo")).parent_keys == {images}
    assert graph.get(AssetKey("quel_credits")).parent_keys == {images}
    assert not any(graph.get(key).is_materializable for key in sources)


def test_the_configuration_of_a_launch_is_typed_and_described() -> None:
    job = defs.resolve_job_def("image_job")
    assert run_config("abc")["ops"]["make_images"]["config"]["job_id"] == "abc"
    ops = job.run_config_schema.config_type.fields["ops"].config_type.fields
    fields = ops["make_images"].config_type.fields["config"].config_type.fields
    assert [name for name, field in fields.items() if field.is_required] == ["job_id"]
    assert all(field.description for field in fields.values())
    assert "UUID" in (fields["job_id"].description or "")


def test_a_wrong_setting_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUEL_MAX_CONCURRENT_IMAGES", "none")
    with pytest.raises(SettingsError, match="QUEL_MAX_CONCURRENT_IMAGES"):
        build_defs()


def test_every_resource_and_the_executor_can_be_replaced() -> None:
    class OtherStudio(EngineResource):
        def open_engine(self) -> Engine:
            raise AssertionError("not opened by being defined")

    class OtherQueue(QueueResource):
        pass

    other = build_defs(
        resource_overrides={"engine": OtherStudio().definition(), "queue": OtherQueue()}, executor=in_process_executor
    )
    assert other.executor is in_process_executor
    assert other.resources is not None
    with build_resources({"engine": other.resources["engine"]}) as opened:
        assert isinstance(opened.engine, OtherStudio)
    assert isinstance(other.resources["queue"], OtherQueue)
    assert set(other.resources) == {"database", "engine", "queue", "io_manager"}
    assert other.resolve_job_def("image_job").name == "image_job"


def test_no_sensor_needs_the_engine() -> None:
    """The platform's host has no Gemini key and no storage secret."""
    needed = {key for sensor in defs.get_repository_def().sensor_defs for key in sensor.required_resource_keys}
    assert needed == {"database", "queue"}


def test_an_engine_without_settings_names_the_missing_one() -> None:
    with pytest.raises(SettingsError, match="DATABASE_URL is not set"):
        EngineResource().open_engine()


def test_the_page_of_resources_names_them() -> None:
    details = defs.get_repository_def().get_top_level_resources()
    shown = {name: (found.resource_fn.__name__, found.description) for name, found in details.items()}
    assert {name: kind for name, (kind, _) in shown.items()} == {
        "database": "DatabaseResource",
        "engine": "EngineResource",
        "io_manager": "json_io_manager",
        "queue": "QueueResource",
    }
    assert all(description for _, description in shown.values())
