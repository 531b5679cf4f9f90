"""`quel metrics`, as a process that a service manager starts and stops."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Mapping
from pathlib import Path

import pytest


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_answers_scrapes_until_it_is_stopped(
    variables: Mapping[str, str], tmp_path: Path, number: signal.Signals
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-m", "quel_dagster.cli.main", "metrics", "--port", str(port)],
        env={**os.environ, **variables},
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert f":{port}/metrics" in process.stdout.readline()
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as answer:
            assert "quel_up" in answer.read().decode()
    finally:
        process.send_signal(number)
        assert process.wait(timeout=30) == 0
        process.stdout.close()
