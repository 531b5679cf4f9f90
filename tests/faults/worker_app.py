"""Imported first by the workers under test: three switches from outside.

`SIGRTMIN` makes the loop that draws the pictures busy for as many seconds as the file `FAULTS_STALL_FILE` says.
`FAULTS_OLDER_ORDER` takes the transaction apart, for the negative control.
`FAULTS_MINUTE` is as many seconds as Gemini's quota is counted over, and a comma, and those by which we wait longer.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

from celery.signals import worker_ready

from quel_dagster.adapters.database.work import JobWork
from quel_dagster.adapters.gemini_quota import GeminiQuota
from quel_dagster.engine.process import EngineProcess
from tests.faults.older_order import commit_step_by_step

STALL = signal.SIGRTMIN

if os.environ.get("FAULTS_OLDER_ORDER"):
    JobWork.commit_picture = commit_step_by_step  # type: ignore[method-assign]

if minute := os.environ.get("FAULTS_MINUTE"):
    seconds, margin = map(float, minute.split(","))
    GeminiQuota.__init__.__kwdefaults__.update(window_seconds=seconds, margin_seconds=margin)


@worker_ready.connect
def listen(**_: Any) -> None:
    def stall(_number: int, _frame: object) -> None:
        seconds = float(Path(os.environ["FAULTS_STALL_FILE"]).read_text())
        EngineProcess.current().post(lambda _engine: time.sleep(seconds))

    signal.signal(STALL, stall)
