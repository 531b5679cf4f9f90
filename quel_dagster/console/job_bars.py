"""Live bars of jobs in a terminal, for `quel status --watch` and `quel demo`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from uuid import UUID

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from quel_dagster.adapters.database.jobs import JobReport


@contextmanager
def job_bars(labels: Mapping[UUID, str], terminal: Console) -> Iterator[Callable[[Mapping[UUID, JobReport]], None]]:
    """Draw one bar per job, in the order of `labels`; yields a function that shows the newest reports."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TextColumn("{task.fields[status]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=terminal) as progress:
        bars: dict[UUID, TaskID] = {}

        def show(reports: Mapping[UUID, JobReport]) -> None:
            for job_id, label in labels.items():
                if (report := reports.get(job_id)) is None:
                    continue
                if job_id not in bars:
                    bars[job_id] = progress.add_task(label, total=max(1, report.total_images), status=report.status)
                progress.update(bars[job_id], completed=report.completed_images, status=report.status)
                if report.status.ended:
                    progress.stop_task(bars[job_id])

        yield show
