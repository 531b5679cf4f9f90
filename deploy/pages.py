"""Write the files that are made from the code; behind `make pages`.

python -m deploy.pages        # tests/unit/test_pages.py fails when one of them is out of date
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from textwrap import wrap

from deploy.models_page import models_page
from deploy.prompts_page import prompts_page
from quel_dagster.jobs.job_file import JobFile
from quel_dagster.settings import Settings

ROOT = Path(__file__).parents[1]


def env_example() -> str:
    """Return the text of .env.example: every setting with its description and default, commented out."""
    lines = [
        "# Settings of Quel. Copy to `.env` in the folder that programs are started in; every line is optional.",
        "# `quel up` embeds each part without a URL. The values are the defaults, where there are any.",
    ]
    for field in Settings.model_fields.values():
        default = "" if field.default is None else str(getattr(field.default, "value", field.default))
        lines += ["", *(f"# {line}" for line in wrap(field.description or "", 110)), f"#{field.alias}={default}"]
    return "\n".join(lines) + "\n"


def job_schema() -> str:
    """Return the JSON Schema of the files that `quel submit` takes."""
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **JobFile.model_json_schema(by_alias=True)}
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


PAGES: Mapping[str, Callable[[], str]] = {
    ".env.example": env_example,
    "docs/models.md": models_page,
    "docs/prompts.md": prompts_page,
    "docs/schema/job.json": job_schema,
}

if __name__ == "__main__":
    for name, made in PAGES.items():
        (ROOT / name).write_text(made(), encoding="utf-8")
