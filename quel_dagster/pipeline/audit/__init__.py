"""One check that tells whether what lies in PostgreSQL, Redis, the object store and Dagster belongs together.

`audit` looks at the invariants I1 to I14 on a system that is at work. What is in motion is no breach: the places that a
job moves through are read in the order in which it moves, states that pass by themselves get a grace, and whatever
still looks wrong is looked at a second time. A part that is not given, or does not answer, leaves its invariants
undone, which is never the same as held.

`procedure` looks, `report` has the words, and the other modules what is more than one question to PostgreSQL. Does not
belong here: SQL (`adapters/database/audit.py`).
"""

from __future__ import annotations

from quel_dagster.pipeline.audit.checks import Sources
from quel_dagster.pipeline.audit.procedure import audit
from quel_dagster.pipeline.audit.report import INVARIANTS, AuditReport, Breach, Finding

__all__ = ["INVARIANTS", "AuditReport", "Breach", "Finding", "Sources", "audit"]
