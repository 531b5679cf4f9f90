"""A process reads its settings once: a changed environment or `.env` has no effect before its next start."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "quel_dagster"
#: what Dagster loads; commands, and the sandbox's own programs, read settings where they start
ROOMS = ("definitions.py", "jobs", "adapters", "engine", "pipeline", "platform")

_TWO_TICKS = """
import os
from pathlib import Path
from quel_dagster.definitions import build_defs
from quel_dagster.pipeline.resources import QueueResource

def seen():
    queue = QueueResource().open()
    host = queue.client.connection_pool.connection_kwargs["host"]
    queue.close()
    return host

build_defs()
print(seen())
Path(".env").write_text("REDIS_URL=redis://two:1/0\\n")
print(seen())
os.environ["REDIS_URL"] = "redis://three:1/0"
print(seen())
"""


def test_changed_env_file_has_no_effect_on_a_running_process(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("REDIS_URL=redis://one:1/0\n")
    done = subprocess.run([sys.executable, "-c", _TWO_TICKS], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["one", "one", "one"], done.stderr


def test_wrong_setting_is_read_again() -> None:
    """A process that could not read its settings does not keep the failure."""
    script = (
        "import os\nfrom quel_dagster.settings import Settings\nfrom quel_dagster.errors import SettingsError\n"
        "os.environ['QUEL_WORKERS'] = 'many'\n"
        "try:\n    Settings.of_process()\nexcept SettingsError as error:\n    print(str(error).split(':')[0])\n"
        "os.environ['QUEL_WORKERS'] = '3'\nprint(Settings.of_process().workers)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["QUEL_WORKERS", "3"], done.stderr


def _files() -> list[Path]:
    return sorted(
        file
        for room in ROOMS
        for file in ([PACKAGE / room] if room.endswith(".py") else (PACKAGE / room).rglob("*.py"))
    )


@pytest.mark.parametrize("file", _files(), ids=lambda file: str(file.relative_to(PACKAGE)))
def test_what_dagster_loads_never_reads_the_environment(file: Path) -> None:
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Call):
            assert ast.unparse(node.func) not in {"Settings.read", "Settings"}, (
                f"line {node.lineno}: Settings.of_process()"
            )
