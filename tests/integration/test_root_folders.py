"""Root's `quel up` in a folder that is closed to others: it works, and opens nothing."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from quel_dagster.errors import ServiceError
from quel_dagster.sandbox import packages, postgres_server, root_folders
from quel_dagster.sandbox.embedded import EmbeddedServers
from quel_dagster.services.stack import Stack
from quel_dagster.settings import Settings

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root starts PostgreSQL as another user")


@pytest.fixture
def closed(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder like /root, and a place of its own for what cannot be in it."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as made:
        Path(made).chmod(0o711)
        monkeypatch.setattr(root_folders, "ROOT_FOLDER", Path(made) / "root")
        folder = Path(made) / "closed"
        folder.mkdir(mode=0o700)
        yield folder


def test_a_closed_folder_stays_closed_and_postgresql_runs(closed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    programs = packages.postgres_programs()
    package = programs.parent.parent
    for part in (programs.parent, package.with_name(f"{package.name}.libs")):
        shutil.copytree(part, closed / part.relative_to(package.parent), symlinks=True)
    monkeypatch.setattr(postgres_server, "postgres_programs", lambda: closed / programs.relative_to(package.parent))
    lines: list[str] = []
    for _ in range(2):  # the second start finds both again
        settings = Settings.read(home=closed / "home", _env_file=None)
        with (
            Stack(settings, embedded=EmbeddedServers(), only=("postgres",), echo=lines.append) as stack,
            psycopg.connect(stack.endpoints.database_url) as connection,
        ):
            connection.execute("create table if not exists kept (x int)")
    assert closed.stat().st_mode & 0o777 == 0o700
    assert not (closed / "home/postgres").exists()
    data = root_folders.data_folder(closed / "home")
    assert data.is_relative_to(root_folders.ROOT_FOLDER)
    assert data.stat().st_mode & 0o777 == 0o700
    assert any(str(data) in line for line in lines), "it says where the data are"


def test_data_that_are_closed_are_refused_with_one_line(closed: Path) -> None:
    (closed / "home/postgres").mkdir(parents=True)
    settings = Settings.read(home=closed / "home", _env_file=None)
    with pytest.raises(ServiceError, match=rf"^{closed} is closed to the user .* chmod o\+x {closed}") as caught:
        Stack(settings, embedded=EmbeddedServers(), only=("postgres",)).start()
    assert "\n" not in str(caught.value)
    assert closed.stat().st_mode & 0o777 == 0o700


def test_an_open_home_has_its_data_in_it() -> None:
    with tempfile.TemporaryDirectory() as made:
        Path(made).chmod(0o711)
        assert root_folders.data_folder(Path(made)) == Path(made) / "postgres"
