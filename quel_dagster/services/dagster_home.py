"""The files that Dagster's processes read: `dagster.yaml` and `workspace.yaml` of DAGSTER_HOME."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path

from quel_dagster.services.endpoints import Endpoints

#: also in workspace.yaml: Dagster identifies sensors and queued runs by the name of their code location
LOCATION = "quel"


def workspace_path(where: Endpoints) -> Path:
    return where.dagster_home / "workspace.yaml"


def write_dagster_home(where: Endpoints) -> None:
    """Create the folders of a home, and write both files."""
    for folder in (where.home / "objects", where.home / "logs", where.dagster_home):
        folder.mkdir(mode=0o700, exist_ok=True)
    config = resources.files("quel_dagster.platform").joinpath("dagster.yaml").read_text()
    (where.dagster_home / "dagster.yaml").write_text(
        "# Written at every start, from quel_dagster/platform/dagster.yaml: change it there.\n" + config
    )
    server = {"socket": str(where.code_server_socket), "location_name": LOCATION}
    workspace = {"load_from": [{"grpc_server": server}]}
    workspace_path(where).write_text(json.dumps(workspace))  # JSON is YAML
