"""What is installed is what was tested, to the byte, and may be distributed."""

from __future__ import annotations

import re
import tomllib
from email.message import Message
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from deploy import licences

ROOT = Path(__file__).parents[2]
LOCKS = {name: (ROOT / name).read_text() for name in ("requirements.lock", "deploy/requirements.lock")}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.mark.parametrize("name", LOCKS)
def test_every_locked_package_has_hashes(name: str) -> None:
    """pip asks for it as soon as one has them, and with --require-hashes always."""
    entries = re.split(r"\n(?=\S)", LOCKS[name].strip())
    assert len(entries) > 100
    for entry in entries:
        first, *rest = entry.replace("\\\n", "\n").splitlines()
        assert re.fullmatch(r"[a-z0-9-]+==\S+( ; [^\\]+)?\s*", first), first
        assert rest
        assert all(re.fullmatch(r"\s+--hash=sha256:[0-9a-f]{64}\s*", line) for line in rest), first


@pytest.mark.parametrize("name", LOCKS)
def test_no_lock_names_a_host(name: str) -> None:
    assert "//" not in LOCKS[name]
    assert "index" not in LOCKS[name]


def test_the_locks_hold_what_the_project_needs() -> None:
    everything, image = (licences.locked(text) for text in LOCKS.values())
    assert image.items() <= everything.items(), "two versions of one package"
    extras = PROJECT["optional-dependencies"]
    for lock, wanted in (
        (image, [*PROJECT["dependencies"], *extras["build"]]),
        (everything, [*PROJECT["dependencies"], *(line for lines in extras.values() for line in lines)]),
    ):
        for requirement in map(Requirement, wanted):
            if requirement.name == PROJECT["name"]:
                continue
            version = lock.get(canonicalize_name(requirement.name))
            assert version, f"{requirement}: run `make lock`"
            assert requirement.specifier.contains(version), f"{requirement}, locked {version}: run `make lock`"


@pytest.mark.parametrize("name", ["Makefile", "Dockerfile"])
def test_everything_is_installed_by_hash(name: str) -> None:
    lines = (ROOT / name).read_text().replace("\\\n", " ").splitlines()
    installs = [line for line in lines if "pip install" in line and "requirements.lock" in line]
    assert installs
    assert all("--require-hashes" in line and "--only-binary :all:" in line for line in installs)


@pytest.mark.parametrize(("name", "word"), [("Dockerfile", "FROM"), ("compose.yaml", "image:")])
def test_images_are_named_by_exact_version(name: str, word: str) -> None:
    found = re.findall(rf"^\s*{word} (\S+)", (ROOT / name).read_text(), re.MULTILINE)
    foreign = [image for image in found if image != "quel_dagster"]
    assert foreign
    assert all(re.fullmatch(r"\S+:\d+\.\d+(\.\d+)?(-\w+)*", image) for image in foreign), foreign


# --- licences ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("expression", "allowed"),
    [
        ("MIT", True),
        ("LGPL-3.0-only", True),
        ("MPL-2.0", True),
        ("GPL-3.0-or-later", False),
        ("AGPL-3.0-only", False),
        ("SSPL-1.0", False),
        ("", False),
        ("MIT OR GPL-3.0-only", True),
        ("MIT AND GPL-3.0-only", False),
        ("Apache-2.0 AND (MIT OR GPL-2.0-only)", True),
        ("(MIT AND GPL-2.0-only) OR AGPL-3.0-only", False),
        ("Apache-2.0 WITH LLVM-exception", True),
        ("GPL-2.0-only WITH Classpath-exception-2.0", False),
        ("Proprietary", False),
    ],
)
def test_a_licence_is_allowed_when_it_can_be_met(expression: str, allowed: bool) -> None:
    assert licences.allows(expression) is allowed


def _metadata(**fields: str) -> Message:
    found = Message()
    for name, value in fields.items():
        found[name.replace("_", "-")] = value
    return found


@pytest.mark.parametrize(
    ("fields", "expression"),
    [
        ({"License_Expression": "MIT", "License": "GPL"}, "MIT"),
        ({"Classifier": "License :: OSI Approved :: MIT License"}, "MIT"),
        ({"Classifier": "License :: OSI Approved", "License": "Apache 2.0"}, "Apache-2.0"),
        (
            {"Classifier": "License :: OSI Approved :: GNU General Public License v3 (GPLv3)"},
            "GNU General Public License v3 (GPLv3)",
        ),
        ({"License": "UNKNOWN"}, ""),
        ({}, ""),
    ],
)
def test_a_licence_is_read_from_metadata(fields: dict[str, str], expression: str) -> None:
    assert licences.licence_of("x", "1", _metadata(**fields)).expression == expression


def test_a_package_without_a_licence_or_with_strong_copyleft_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lock, target = tmp_path / "lock", tmp_path / "page.md"
    lock.write_text("good==1 \\\n    --hash=sha256:0\nnone==2\nstrong==3 ; python_version < '4'\n")
    found = {"good": {"License": "MIT"}, "none": {}, "strong": {"License": "AGPL-3.0-only"}}
    monkeypatch.setattr(licences, "_metadata_of", lambda name, _version: _metadata(**found[name]))
    assert licences.main(lock, target) == 1
    assert capsys.readouterr().err.splitlines() == [
        "none 2: no licence in its metadata",
        "strong 3: AGPL-3.0-only is not allowed",
    ]
    assert not target.exists()


def test_the_page_is_that_of_the_lock() -> None:
    rows = re.findall(
        r"^\| ([a-z0-9-]+) \| ([0-9]\S*) \| (.+?) \|", (ROOT / "docs/licences.md").read_text(), re.MULTILINE
    )
    assert {name: version for name, version, _ in rows} == licences.locked(LOCKS["requirements.lock"])
    assert all(licences.allows(expression) for *_, expression in rows)
