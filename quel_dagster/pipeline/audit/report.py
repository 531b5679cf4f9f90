"""What an audit says: the invariants, and the words for what breaks them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from quel_dagster.jobs.model import Value

INVARIANTS: Mapping[str, str] = {
    "I1": "The balance now is the balance then plus the sum of the ledger, for every organization and member.",
    "I2": "Every balance_after goes on from the one before, in ledger order.",
    "I3": "Every generated picture of a job has exactly one DEDUCT of the price.",
    "I4": "Every DEDUCT has a generated picture of a job.",
    "I5": "The ids of a job are distinct, as many as completed_images, and at most total_images.",
    "I6": "Every id has its quel_attach row, no two rows of a job share a key, no generated row is without a job.",
    "I7": "A production's ids are distinct and hold all ids of its ended jobs.",
    "I8": "No picture belongs to two jobs.",
    "I9": "An ended job has its completed_at; a completed one has a picture.",
    "I10": "A job in processing has a live lease and a live run.",
    "I11": "Every id taken from the queue became a run or a dead letter; no waiting job is lost.",
    "I12": "Every generated picture has its object, which decodes, with the recorded size.",
    "I13": "Nothing is committed after the user's cancel.",
    "I14": "The end of a job's run agrees with the end of the job.",
}

_AGAIN = "push the job again: quel enqueue {job}"
#: what is wrong, and the remedy, by invariant and kind; filled with the facts of the breach
_WORDS: Mapping[tuple[str, str], tuple[str, str]] = {
    ("I1", "off"): (
        "{payer} has {balance} credits, the ledger says {expected}",
        "find out who changed one without the other, then correct the balance or add the missing ledger row",
    ),
    ("I2", "gap"): (
        "ledger row {ledger} of {payer} says balance_after {balance}, the rows before say {expected}",
        "two writers overtook each other here; correct balance_after from this row on",
    ),
    ("I3", "unpaid"): ("picture {attach} of job {job} was never charged", "charge it, or book it as given away"),
    ("I3", "repeated"): ("picture {attach} of job {job} was charged {n} times", "refund all but one"),
    ("I3", "amount"): (
        "picture {attach} of job {job} was charged {amount}, not the price",
        "correct the charge, or give the price of that time",
    ),
    ("I4", "unearned"): (
        "charge {ledger} of {payer} ({amount}) pays for picture {attach}, which no job has",
        "refund it, or put the picture back into its job",
    ),
    ("I4", "no_picture"): (
        "charge {ledger} of {payer} ({amount}) names no picture",
        "refund it, or name its picture",
    ),
    ("I5", "repeated"): ("job {job} names {n} ids, only {different} different ones", "drop the repeated ids"),
    ("I5", "miscounted"): (
        "job {job} has {n} pictures, completed_images says {completed}",
        "set completed_images to the number of its ids",
    ),
    ("I5", "too_many"): ("job {job} has {n} pictures of {total} planned", "refund and drop what is too much"),
    ("I6", "no_row"): ("picture {attach} of job {job} has no quel_attach row", "drop the id and refund its charge"),
    ("I6", "same_key"): ("pictures {attach} of job {job} share the key {key}", "keep one and refund the others"),
    ("I6", "no_job"): (
        "quel_attach row {attach} ({key}) belongs to no job",
        "add it to its job and charge it, or delete row and object",
    ),
    ("I7", "repeated"): ("production {production} names picture {attach} more than once", "drop the repeated ids"),
    ("I7", "missing"): (
        "production {production} lacks picture {attach} of its job {job}",
        "append the id to its attach_ids",
    ),
    ("I8", "shared"): ("picture {attach} belongs to jobs {jobs}", "leave it with the job that its key names"),
    ("I9", "no_time"): ("job {job} is {status} without completed_at", "set completed_at from its last picture or run"),
    ("I9", "empty"): ("job {job} is completed without a picture", "set it to failed, or " + _AGAIN),
    ("I10", "no_lease"): (
        "job {job} is in processing and run {run} goes on, but nobody holds its lease",
        "terminate the run, then " + _AGAIN,
    ),
    ("I10", "no_run"): (
        "job {job} is in processing under a lease of run {run}, which is not live",
        "wait until the lease ends, then " + _AGAIN,
    ),
    ("I10", "abandoned"): ("job {job} is in processing with nobody working on it", _AGAIN),
    ("I11", "stuck"): (
        "entry {entry} stays in jobs:processing without a run",
        "look whether the daemon and the sensor jobs_queue_sensor are running",
    ),
    ("I11", "lost"): ("job {job} is pending, but neither queue nor run knows it", _AGAIN),
    ("I12", "no_key"): ("picture {attach} of job {job} has no usable key: {why}", "correct attach_file_path"),
    ("I12", "no_object"): ("picture {attach} of job {job} has no object {key}", "refund it, drop the id, make it anew"),
    ("I12", "size"): (
        "picture {attach} of job {job} has {size} bytes recorded, its object {key} has {found}",
        "look at the object; if it is good, correct attach_file_size",
    ),
    ("I12", "broken"): ("picture {attach} of job {job}, object {key}: {why}", "refund it, drop the id, make it anew"),
    ("I13", "late"): (
        "picture {attach} of job {job} was committed at {committed}, after the cancel at {cancelled}",
        "refund it",
    ),
    ("I14", "disagree"): (
        "job {job} is {status}, its last run {run} ended {ended}",
        "read the run's page; correct the job, or " + _AGAIN,
    ),
}

#: facts that name something; the others are figures
_IDS = ("job", "jobs", "attach", "production", "member", "organization", "ledger", "run", "entry")
#: breaches listed per invariant; more are counted
LISTED = 1000


class Breach(Value):
    """One thing that should not be."""

    code: str
    #: which rule of the invariant
    kind: str
    #: what it is about, such as `{"job": "…", "attach": "39100"}`
    ids: dict[str, str]
    #: one clause that names the ids
    problem: str
    remedy: str

    @property
    def line(self) -> str:
        return f"{self.problem}; {self.remedy}."


class Finding(Value):
    """What came of one invariant."""

    code: str
    sentence: str
    #: things that were looked at
    checked: int = 0
    #: confirmed by a second look; at most LISTED of them
    breaches: tuple[Breach, ...] = ()
    #: how many breaches there were, listed or not
    total: int = 0
    #: why the invariant was not looked at, or not to the end
    not_done: str | None = None

    @property
    def held(self) -> bool:
        """Looked at to the end, and no breach."""
        return not self.breaches and self.not_done is None


class AuditReport(Value):
    """What came of an audit: one finding per invariant, I1 to I14."""

    findings: tuple[Finding, ...]
    seconds: float

    @property
    def clean(self) -> bool:
        """No breach; `complete` says whether everything was looked at."""
        return not any(finding.breaches for finding in self.findings)

    @property
    def complete(self) -> bool:
        return all(finding.not_done is None for finding in self.findings)

    @property
    def breaches(self) -> tuple[Breach, ...]:
        return tuple(breach for finding in self.findings for breach in finding.breaches)

    def __getitem__(self, code: str) -> Finding:
        return next(finding for finding in self.findings if finding.code == code)


def breach_of(code: str, kind: str, facts: Mapping[str, Any]) -> Breach:
    """In words. `kind` is one of the invariant's; a fact that its words ask for and nobody knows reads `none`."""
    words: defaultdict[str, Any] = defaultdict(lambda: "none", facts)
    words["payer"] = next((f"{name} {facts[name]}" for name in ("organization", "member") if name in facts), "nobody")
    problem, remedy = _WORDS[code, kind]
    return Breach(
        code=code,
        kind=kind,
        ids={name: str(facts[name]) for name in _IDS if facts.get(name) is not None},
        problem=problem.format_map(words),
        remedy=remedy.format_map(words),
    )
