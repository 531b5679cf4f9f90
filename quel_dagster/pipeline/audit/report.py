"""The texts of an audit: the invariants, and the message and remedy of each kind of breach."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from quel_dagster.jobs.model import Value

INVARIANTS: Mapping[str, str] = {
    "I1": "The balance now is the balance then plus the sum of the ledger, for every organization and member.",
    "I2": "Every balance_after follows from the row before, in ledger order.",
    "I3": "Every picture of a job has one DEDUCT of the price, by its payer, for its production; at most one refund.",
    "I4": "Every DEDUCT has a generated picture of a job, every refund its DEDUCT.",
    "I5": "A job's ids are distinct and at most total_images; completed_images and failed_images count them.",
    "I6": "Every id has its row, with a key that names job and member; no two rows share a key; no row without a job.",
    "I7": "A production's ids are distinct and hold all ids of its ended jobs; its count and status follow from them.",
    "I8": "No picture belongs to two jobs.",
    "I9": "An ended job has completed_at; a completed one a picture; one with fewer than planned an error_message.",
    "I10": "A job in processing has a live lease and a live run.",
    "I11": "Every id taken from the queue became a run or a dead letter; no waiting job is lost.",
    "I12": "Every picture has its object, which decodes, with the recorded size and hash; every object has its row.",
    "I13": "Nothing is committed after the user's cancel.",
    "I14": "The end of a job's run agrees with the end of the job.",
}

_AGAIN = "push the job again: quel enqueue {job}"
#: message and remedy by invariant and kind, as templates that the facts of the breach fill
_WORDS: Mapping[tuple[str, str], tuple[str, str]] = {
    ("I1", "off"): (
        "{payer} has {balance} credits, the ledger says {expected}",
        "find out who changed one without the other, then correct the balance or add the missing ledger row",
    ),
    ("I2", "gap"): (
        "ledger row {ledger} of {payer} says balance_after {balance}, the rows before say {expected}",
        "two writers overlapped here; correct balance_after from this row on",
    ),
    ("I3", "unpaid"): ("picture {attach} of job {job} was never charged", "charge it, or record it as a gift"),
    ("I3", "repeated"): ("picture {attach} of job {job} was charged {n} times", "refund all but one"),
    ("I3", "amount"): (
        "picture {attach} of job {job} was charged {amount}, not the price",
        "correct the charge, or audit with the price of that time",
    ),
    ("I3", "payer"): (
        "picture {attach} of job {job} was paid for by {payer}, the job's payer is {owner}",
        "refund it, then charge {owner}",
    ),
    ("I3", "production"): (
        "the charge of picture {attach} of job {job} names production {production}, which is not the job's",
        "correct production_idx of that ledger row",
    ),
    ("I3", "refunds"): ("picture {attach} of job {job} was refunded {n} times", "reverse all but one"),
    ("I3", "refund"): (
        "the refund of picture {attach} of job {job} ({amount}) does not match its charge",
        "correct the refund's amount, payer and production by its DEDUCT row",
    ),
    ("I4", "refund"): (
        "refund {ledger} to {payer} ({amount}) is for picture {attach}, which was never charged",
        "reverse it, or restore the DEDUCT row",
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
    ("I5", "too_many"): ("job {job} has {n} pictures of {total} planned", "refund and drop the surplus"),
    ("I5", "failed"): (
        "job {job} has {n} of {total} pictures, failed_images says {failed}",
        "set failed_images to the number of pictures that failed",
    ),
    ("I5", "no_id"): ("job {job} lists {item}, which is no attach id", "drop it from generated_attach_ids"),
    ("I5", "no_list"): ("generated_attach_ids of job {job} is of type {item}, not a list", "write its ids as a list"),
    ("I6", "no_row"): ("picture {attach} of job {job} has no quel_attach row", "drop the id and refund its charge"),
    ("I6", "same_key"): ("pictures {attach} share the key {key}", "keep one and refund the others"),
    ("I6", "moved"): (
        "the row of picture {attach} of job {job} says {key}, it was stored under {stored}",
        "correct attach_file_path and attach_directory",
    ),
    ("I6", "another"): (
        "picture {attach} of job {job} of {owner} has the key {key} of another job or member",
        "find out who moved it; put it back where its key belongs",
    ),
    ("I6", "no_job"): (
        "quel_attach row {attach} ({key}) belongs to no job",
        "add it to its job and charge it, or delete row and object",
    ),
    ("I7", "repeated"): ("production {production} names picture {attach} more than once", "drop the repeated ids"),
    ("I7", "missing"): (
        "production {production} lacks picture {attach} of its job {job}",
        "append the id to its attach_ids",
    ),
    ("I7", "count"): (
        "production {production} has {n} pictures, generated_image_count says {counted}",
        "set generated_image_count to the number of its pictures",
    ),
    ("I7", "status"): (
        "production {production} is {status}, its jobs say {expected}",
        "set production_status to what its jobs say",
    ),
    ("I7", "no_id"): ("production {production} lists {item}, which is no attach id", "drop it from attach_ids"),
    ("I8", "moved"): (
        "picture {attach} was made for job {of}, but job {job} lists it",
        "move the id back into the list of job {of}",
    ),
    ("I8", "shared"): ("picture {attach} belongs to jobs {jobs}", "leave it with the job that its key names"),
    ("I9", "no_time"): ("job {job} is {status} without completed_at", "set completed_at from its last picture or run"),
    ("I9", "empty"): ("job {job} is completed without a picture", "set it to failed, or " + _AGAIN),
    ("I9", "unexplained"): (
        "job {job} is {status} with {n} of {total} pictures and no error_message",
        "read its run's page and write the reason there, or " + _AGAIN,
    ),
    ("I10", "no_lease"): (
        "job {job} is in processing and run {run} continues, but its lease has expired",
        "terminate the run, then " + _AGAIN,
    ),
    ("I10", "no_run"): (
        "job {job} is in processing under a lease of run {run}, which is not live",
        "wait until the lease ends, then " + _AGAIN,
    ),
    ("I10", "abandoned"): ("job {job} is in processing without a run or worker", _AGAIN),
    ("I11", "stuck"): (
        "entry {entry} stays in jobs:processing without a run",
        "check whether the daemon and the sensor jobs_queue_sensor are running",
    ),
    ("I11", "lost"): ("job {job} is pending, but neither queue nor run knows it", _AGAIN),
    ("I12", "no_key"): ("picture {attach} of job {job} has no usable key: {why}", "correct attach_file_path"),
    ("I12", "no_object"): (
        "picture {attach} of job {job} has no object {key}",
        "refund it, drop the id, rerun the job",
    ),
    ("I12", "size"): (
        "picture {attach} of job {job} has {size} bytes recorded, its object {key} has {found}",
        "check the object; if it is good, correct attach_file_size",
    ),
    ("I12", "overwritten"): (
        "the object {key} of picture {attach} of job {job} is another picture than the one that was stored",
        "restore it from a backup, or refund the picture",
    ),
    ("I12", "unnamed"): (
        "object {object} ({size} bytes) is in the store, but no quel_attach row names it",
        "delete it, or restore its row",
    ),
    ("I12", "broken"): ("picture {attach} of job {job}, object {key}: {why}", "refund it, drop the id, rerun the job"),
    ("I13", "late"): (
        "picture {attach} of job {job} was committed at {committed}, after the cancel at {cancelled}",
        "refund it",
    ),
    ("I14", "disagree"): (
        "job {job} is {status}, its last run {run} ended {ended}",
        "read the run's page; correct the job, or " + _AGAIN,
    ),
}

#: facts that are ids or names; the others are figures
_IDS = ("job", "jobs", "attach", "production", "member", "organization", "ledger", "run", "entry", "object")
#: breaches listed per invariant; the rest is counted
LISTED = 1000


class Breach(Value):
    """One violation of an invariant."""

    code: str
    #: the violated rule of the invariant
    kind: str
    #: what it concerns, such as `{"job": "…", "attach": "39100"}`
    ids: dict[str, str]
    #: one clause that names the ids
    problem: str
    remedy: str

    @property
    def line(self) -> str:
        return f"{self.problem}; {self.remedy}."


class Finding(Value):
    """The result for one invariant."""

    code: str
    sentence: str
    #: number of items checked
    checked: int = 0
    #: confirmed by the second check; at most LISTED of them
    breaches: tuple[Breach, ...] = ()
    #: number of breaches, listed or not
    total: int = 0
    #: why the invariant was not checked, or not completely
    not_done: str | None = None

    @property
    def held(self) -> bool:
        """Whether everything was checked, without a breach."""
        return not self.breaches and self.not_done is None


class AuditReport(Value):
    """The result of an audit: one finding per invariant, I1 to I14."""

    findings: tuple[Finding, ...]
    seconds: float

    @property
    def clean(self) -> bool:
        """Whether no breach was found; `complete` tells whether everything was checked."""
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
    """Return a breach with its text. `kind` is one of the invariant's; an unknown fact reads `none`."""
    words: defaultdict[str, Any] = defaultdict(lambda: "none", facts)
    words["payer"] = next((f"{name} {facts[name]}" for name in ("organization", "member") if name in facts), "no payer")
    problem, remedy = _WORDS[code, kind]
    return Breach(
        code=code,
        kind=kind,
        ids={name: str(facts[name]) for name in _IDS if facts.get(name) is not None},
        problem=problem.format_map(words),
        remedy=remedy.format_map(words),
    )
