"""The result of a check."""

from __future__ import annotations

from enum import StrEnum

from quel_dagster.jobs.model import Value


class Result(StrEnum):
    OK = "ok"
    #: works, but needs attention
    WARNING = "warning"
    FAILED = "failed"

    @property
    def mark(self) -> str:
        return {"ok": "✓", "warning": "!", "failed": "✗"}[self.value]


class Finding(Value):
    """One line."""

    part: str
    result: Result
    said: str
    #: what to do; empty when the result is ok
    remedy: str = ""


class Part:
    """Creates the findings about one system."""

    def __init__(self, name: str) -> None:
        self.name = name

    def ok(self, said: str) -> Finding:
        return Finding(part=self.name, result=Result.OK, said=said)

    def warning(self, said: str, remedy: str) -> Finding:
        return Finding(part=self.name, result=Result.WARNING, said=said, remedy=remedy)

    def failed(self, said: str, remedy: str) -> Finding:
        return Finding(part=self.name, result=Result.FAILED, said=said, remedy=remedy)
