"""The tags of our runs, by which people and programs find them. Dagster's own are in `dagster._core.storage.tags`.

Belongs here: names, and the values that are looked for. Does not belong here: which run gets them (`metadata`).
"""

from __future__ import annotations

JOB_ID_TAG = "quel/job_id"
PRODUCTION_ID_TAG = "quel/production_id"
MEMBER_TAG = "quel/member_id"
ORG_TAG = "quel/org_id"
CATEGORY_TAG = "quel/category"
JOB_TYPE_TAG = "quel/job_type"
#: how the run came about
LAUNCH_TAG = "quel/launch"
OUTCOME_TAG = "quel/outcome"
#: An outcome that was inherited with the tags of another run says nothing about this one.
UNFINISHED = "unfinished"
#: the outcome of a run that found another at work on its job
REFUSED = "refused"
#: instead of the job's id: a dry run is none of its runs
DRY_RUN_TAG = "quel/dry_run_of"
#: how often the run was queued again because it had never begun
LOST_STARTS_TAG = "quel/lost_starts"
