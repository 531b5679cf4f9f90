"""The tags of this project's runs. Dagster's own tags are in `dagster._core.storage.tags`.

Responsibilities: names, and the values that are searched for. Not here: which run gets them (`metadata`).
"""

from __future__ import annotations

JOB_ID_TAG = "quel/job_id"
PRODUCTION_ID_TAG = "quel/production_id"
MEMBER_TAG = "quel/member_id"
ORG_TAG = "quel/org_id"
CATEGORY_TAG = "quel/category"
JOB_TYPE_TAG = "quel/job_type"
#: how the run was launched
LAUNCH_TAG = "quel/launch"
OUTCOME_TAG = "quel/outcome"
#: An outcome tag inherited from another run does not describe this one.
UNFINISHED = "unfinished"
#: the outcome of a run that found its job taken by another run
REFUSED = "refused"
#: instead of the job's id, because a dry run does not count as a run of the job
DRY_RUN_TAG = "quel/dry_run_of"
#: how often the run was queued again because it had never begun
LOST_STARTS_TAG = "quel/lost_starts"
#: number of consecutive runs of the job that ended by a failed step, not by the end of their process
STEP_FAILURES_TAG = "quel/step_failures"
