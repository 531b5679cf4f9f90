"""The audit: check that PostgreSQL, Redis, the object store and Dagster agree.

`audit` checks the invariants I1 to I14 on a running system. A job in motion is not a breach: places are read in the
order in which a job moves through them, states that pass by themselves get a grace period, and every suspected
breach is checked a second time. When a system is not given, or does not answer, its invariants are reported as not
checked, which is different from held.

Responsibilities: `procedure` runs the checks, `report` holds the texts, the other modules hold checks that need
more than one query to PostgreSQL.
Not here: SQL (`adapters/database/audit*.py`).
"""

from __future__ import annotations

from quel_dagster.pipeline.audit.checks import Sources
from quel_dagster.pipeline.audit.procedure import audit
from quel_dagster.pipeline.audit.report import INVARIANTS, AuditReport, Breach, Finding

__all__ = ["INVARIANTS", "AuditReport", "Breach", "Finding", "Sources", "audit"]
