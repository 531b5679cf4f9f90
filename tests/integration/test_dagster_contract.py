"""The private pieces of Dagster and its packages that we build on: an upgrade that moves one fails here, by name."""

from __future__ import annotations

import ast
import importlib
import importlib.metadata
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import quel_dagster
from quel_dagster.errors import SettingsError
from quel_dagster.platform import internals, webserver

ROOT = Path(quel_dagster.__file__).parent
PRIVATE = re.compile(r"^(dagster(_postgres|_shared|_webserver)?(\.|$))")


def imports_of(path: Path) -> set[tuple[str, str]]:
    """(module, name) of every import from Dagster that is not of its public front."""
    found: set[tuple[str, str]] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and PRIVATE.match(node.module) and node.module != "dagster":
            found |= {(node.module, alias.name) for alias in node.names}
        if isinstance(node, ast.Import):
            found |= {(alias.name, "") for alias in node.names if PRIVATE.match(alias.name) and alias.name != "dagster"}
    return found


def resolve(place: str) -> Any:
    module, _, path = place.partition(":")
    found: Any = importlib.import_module(module)
    for name in path.split("."):
        found = getattr(found, name)
    return found


def private_classes() -> set[str]:
    names = (there for group in internals.GROUPS for names in group.names.values() for there in names)
    return {there for there in names if there[0].isupper()}


def test_one_file_imports_private_modules() -> None:
    others = [path for path in ROOT.rglob("*.py") if path.name != "internals.py" and imports_of(path)]
    assert others == []


def test_what_type_checking_sees_is_what_the_list_says() -> None:
    listed = {
        (module, name)
        for group in internals.GROUPS
        for module, names in group.names.items()
        for name in names
        if "=" not in name  # exported under another name: a module or a function that is looked up while running
    }
    assert imports_of(ROOT / "platform" / "internals.py") == listed


@pytest.mark.parametrize("group", internals.GROUPS, ids=lambda group: group.use.split(" (")[0])
def test_this_dagster_has_every_name_attribute_and_parameter(group: internals.Group) -> None:
    assert internals.missing_of(group) == []


@pytest.mark.parametrize("name", sorted(internals._WHERE))
def test_every_listed_name_is_used(name: str) -> None:
    word = re.compile(rf"\b{name}\b")
    assert any(word.search(path.read_text()) for path in ROOT.rglob("*.py") if path.name != "internals.py")


def listed_attributes() -> set[str]:
    return {place.rpartition(":")[2].rpartition(".")[2] for group in internals.GROUPS for place in group.attributes}


def subclasses_of_private_classes() -> Iterator[tuple[ast.ClassDef, type]]:
    for path in ROOT.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef):
                bases = {each.id for base in node.bases for each in ast.walk(base) if isinstance(each, ast.Name)}
                yield from ((node, getattr(internals, base)) for base in bases & private_classes())


def methods_of(node: ast.ClassDef) -> set[str]:
    return {each.name for each in node.body if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef)}


def private_attributes(node: ast.AST) -> set[str]:
    return {each.attr for each in ast.walk(node) if isinstance(each, ast.Attribute) and re.match("_[a-z]", each.attr)}


def test_every_method_that_is_overridden_is_listed() -> None:
    found = {
        name
        for node, theirs in subclasses_of_private_classes()
        for name in methods_of(node)
        if not name.startswith("__") and hasattr(theirs, name)
    }
    assert {"_priority_sort", "terminate"} <= found
    assert found <= listed_attributes(), found - listed_attributes()


def test_every_private_attribute_that_is_read_or_assigned_is_listed() -> None:
    """Of a private class, in its subclasses here."""
    found = {
        name
        for node, theirs in subclasses_of_private_classes()
        for name in private_attributes(node) - methods_of(node)
        if internals._resolve(f"{theirs.__module__}:{theirs.__qualname__}.{name}") is not None
    }
    assert {"_engine", "_run_storage", "_event_to_row"} <= found
    assert found <= listed_attributes(), found - listed_attributes()


def test_every_private_attribute_of_another_object_is_listed() -> None:
    """In the platform, of objects of a class that another file defines."""
    standard = {"_exit", "_replace"}  # of os, and of a named tuple
    found: set[str] = set()
    for path in (ROOT / "platform").glob("*.py"):
        tree = ast.parse(path.read_text())
        nodes = list(ast.walk(tree))
        own = {each.name for each in nodes if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef)}
        own |= {each.attr for each in nodes if isinstance(each, ast.Attribute) and ast.unparse(each.value) == "self"}
        found |= private_attributes(tree) - own
    assert found - standard <= listed_attributes(), found - standard - listed_attributes()


def test_every_name_and_attribute_has_one_policy() -> None:
    names = [exported for exported, _, _ in internals._places()]
    places = [place for group in internals.GROUPS for place in group.attributes]
    assert len(names) == len(set(names))
    assert len(places) == len(set(places))


def test_a_name_that_has_moved_refuses_or_degrades_in_one_line(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def group(policy: internals.Policy) -> internals.Group:
        return internals.Group(
            use="a test",
            instead="",
            when_gone=policy,
            effect="nothing works",
            names={"dagster._core.launcher": ["Gone"]},
        )

    monkeypatch.setattr(internals, "GROUPS", (group("refuse"),))
    with pytest.raises(
        SettingsError, match=r"has no dagster\._core\.launcher:Gone .*: nothing works\. Install"
    ) as refused:
        internals.check_internals()
    assert "\n" not in str(refused.value)
    monkeypatch.setattr(internals, "GROUPS", (group("degrade"),))
    internals.check_internals()
    assert "dagster._core.launcher:Gone" in caplog.text


@pytest.mark.parametrize(
    ("package", "version"),
    [
        ("dagster", "1.13.27"),
        ("dagster-postgres", "0.29.27"),
    ],
)
def test_the_versions_that_this_was_found_with(package: str, version: str) -> None:
    assert importlib.metadata.version(package) == version


def test_the_sensor_loop_reads_its_constant_every_time() -> None:
    sensor = importlib.import_module("dagster._daemon.sensor")
    assert isinstance(sensor.MIN_INTERVAL_LOOP_TIME, int | float)
    assert "MIN_INTERVAL_LOOP_TIME" in inspect.getsource(sensor.execute_sensor_iteration_loop)


def test_the_controller_makes_the_run_queues_daemon_by_its_name() -> None:
    controller = importlib.import_module("dagster._daemon.controller")
    daemon = resolve("dagster._daemon.run_coordinator.queued_run_coordinator_daemon:QueuedRunCoordinatorDaemon")
    assert issubclass(controller.QueuedRunCoordinatorDaemon, daemon)
    assert "QueuedRunCoordinatorDaemon(" in inspect.getsource(controller.create_daemon_of_type)


def test_the_web_server_is_made_by_its_name_and_its_page_takes_our_script() -> None:
    app = importlib.import_module("dagster_webserver.app")
    assert "return DagsterWebserver(" in inspect.getsource(app.create_app_from_workspace_process_context)
    page = (Path(app.__file__).parent / "webapp/build/index.html").read_text()
    with_script = webserver.with_hidden_tags(page)
    assert with_script.index("unpinned-tags") < with_script.index(" src=")


def test_the_tags_by_which_runs_are_found() -> None:
    tags = importlib.import_module("dagster._core.storage.tags")
    assert tags.RUN_KEY_TAG == "dagster/run_key"
    assert tags.WILL_RETRY_TAG == "dagster/will_retry"


def test_the_switches_by_which_storage_knows_a_mere_look() -> None:
    from quel_dagster.platform import storage  # noqa: PLC0415

    cli = importlib.import_module("dagster._cli.definitions")
    dev = importlib.import_module("dagster._cli.dev")
    assert all(any(name in inspect.getsource(module) for module in (cli, dev)) for name in storage._INSPECTING), (
        "dagster dev and dagster definitions validate no longer say that they are"
    )
