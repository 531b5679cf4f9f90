"""A worker without Celery's pool, as a program: the parent preloads and forks, the child makes the job it is given.

Prints as JSON what the parent had open at the fork, and what the child imported after it.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from pathlib import Path

from celery import platforms
from dagster import DagsterInstance, execute_job
from dagster._core.code_pointer import ModuleCodePointer
from dagster._core.definitions.reconstruct import ReconstructableRepository
from dagster._core.instance.runs import run_domain  # noqa: F401  for the making of a run, which is not a worker's

from quel_dagster.pipeline import celery_app
from quel_dagster.pipeline.assets import run_config


def main(job_id: str) -> None:
    celery_app.load()
    links = [str(link.readlink()) for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
    seen = {
        "threads": [thread.name for thread in threading.enumerate()],
        "kernel_threads": len(list(Path("/proc/self/task").iterdir())),
        "sockets": [link for link in links if link.startswith("socket:")],
    }
    told, tell = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(tell, json.dumps(_run(job_id)).encode())
        os._exit(0)
    os.close(tell)
    with os.fdopen(told) as answer:
        sys.stdout.write(json.dumps({**seen, "child": json.load(answer)}))
    os.waitpid(child, 0)


def _run(job_id: str) -> dict[str, object]:
    before = set(sys.modules)
    platforms.set_pdeathsig("SIGKILL")  # as every child of Celery's does
    celery_app.warm()
    code = ReconstructableRepository(ModuleCodePointer("quel_dagster.definitions", "defs", str(Path.cwd())))
    with DagsterInstance.get() as instance:
        job = code.get_reconstructable_job("image_job")
        with execute_job(job, instance, run_config=run_config(job_id)) as result:
            success = result.success
    celery_app.close()
    return {"success": success, "late": sorted(set(sys.modules) - before)}


if __name__ == "__main__":
    main(sys.argv[1])
