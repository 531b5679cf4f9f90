"""Sockets of a home that other users of the machine cannot open."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from quel_dagster.errors import ServiceError
from quel_dagster.services.private_sockets import private_socket
from quel_dagster.services.probes import accepts

CONNECT = "import os, socket, sys; os.setuid(int(sys.argv[2])); socket.socket(socket.AF_UNIX).connect(sys.argv[1])"
OTHER_USER = 65534


@pytest.fixture(autouse=True)
def own_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Path(tempfile.mkdtemp(prefix="qt-"))
    folder.chmod(0o755)
    monkeypatch.setattr(tempfile, "tempdir", str(folder))


@pytest.mark.parametrize("name", ["home", "a home with % and spaces", "long" * 40])
def test_any_home_has_a_socket_that_can_be_bound(tmp_path: Path, name: str) -> None:
    home = tmp_path / name
    home.mkdir()
    path = private_socket(home, "code-server.sock")
    assert path == private_socket(home, "code-server.sock")
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert not accepts(path)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()
        assert accepts(path)


def test_two_homes_have_two_sockets(tmp_path: Path) -> None:
    homes = [tmp_path / ("long" * 40) / name for name in ("one", "two")]
    assert len({private_socket(home, "code-server.sock") for home in homes}) == 2


def test_a_folder_open_to_others_is_closed(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir(mode=0o777)
    assert private_socket(tmp_path, "code-server.sock").parent.stat().st_mode & 0o777 == 0o700


def test_a_link_in_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    home = Path(tempfile.mkdtemp(prefix="h-"))
    (home / "run").symlink_to(tmp_path)
    with pytest.raises(ServiceError, match="remove it"):
        private_socket(home, "code-server.sock")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs to become another user")
def test_another_user_cannot_connect() -> None:
    home = Path(tempfile.mkdtemp(prefix="h-"))
    home.chmod(0o755)
    path = private_socket(home, "code-server.sock")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        path.chmod(0o777)  # the folder keeps others out, with any umask
        server.listen()
        command = [sys.executable, "-c", CONNECT, str(path)]
        assert subprocess.run([*command, "0"], check=False).returncode == 0
        other = subprocess.run([*command, str(OTHER_USER)], capture_output=True, text=True, check=False)
        assert "PermissionError" in other.stderr
