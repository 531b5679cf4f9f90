"""SQL expressions for the kind of a job row: a kind of the older worker, or a category (domain.md §1, §4).

Statements use them to filter many rows without loading `job_input_data`. The alias of quel_production_photo is `p`,
that of quel_production_jobs is `j` or the parameter `job`.
"""

from __future__ import annotations

from quel_dagster.jobs.kinds import ForeignKind
from quel_dagster.jobs.model import Category


def _path(job: str) -> str:
    return rf"lower(btrim(coalesce({job}.quel_production_path, p.quel_production_path), E' \t\r\n'))"


def _has_mask(job: str) -> str:
    """`maskDataUrl` is present: neither null nor empty. An object that was encoded twice is a text that names it."""
    data = f"{job}.job_input_data"
    return f"""case jsonb_typeof({data})
                when 'object' then coalesce({data} -> 'maskDataUrl', 'null') not in ('null', '""')
                when 'string' then {data} #>> '{{}}' like '%"maskDataUrl"%'
                else false end"""


def foreign_kind(job: str) -> str:
    """The older worker's kind that a row is of; NULL for a row that is for this project."""
    return rf"""case
        when {_path(job)} in ('{ForeignKind.MULTIVIEW}', '{ForeignKind.LANDING}') then {_path(job)}
        when lower(btrim({job}.job_type, E' \t\r\n')) = 'modify' or {_has_mask(job)} then '{ForeignKind.INPAINTING}'
    end"""


FOREIGN_KIND = foreign_kind("j")

_CATEGORY = f"""case when {_path("j")} in ({", ".join(f"'{category}'" for category in Category)}) then {_path("j")}
    else '{Category.FASHION}' end"""
#: The foreign kind of a row, else its category by the rule of `Category.of_path`.
CATEGORY = f"coalesce({FOREIGN_KIND}, {_CATEGORY})"
