"""The assets: the tables that the web app writes, and what each run makes of them."""

from collections.abc import Mapping
from typing import Any

from dagster import (
    Array,
    AssetKey,
    AssetsDefinition,
    AssetSelection,
    AssetSpec,
    Bool,
    Field,
    GraphIn,
    GraphOut,
    String,
    config_mapping,
    define_asset_job,
    graph,
)

from quel_dagster.pipeline.names import (
    CREDITS,
    CREDITS_KEY,
    GENERATED_IMAGES,
    IMAGES_KEY,
    JOBS_TABLE,
    PRODUCTION_PHOTO,
    PRODUCTIONS_KEY,
    REFERENCES,
)
from quel_dagster.pipeline.ops import (
    DRY_RUN_DESCRIPTION,
    JOB_ID_DESCRIPTION,
    UNITS_DESCRIPTION,
    generate,
    load_job,
    plan_units,
    settle,
)
from quel_dagster.pipeline.tables import column_schema

WEB_APP = "web_app"
RESULTS = "results"
#: Dagster requires an address or a team; these two are the halves of the system (domain.md).
WEB_APP_OWNER = "team:quel-web-app"
PIPELINE_OWNER = "team:quel-pictures"

#: observed by `observations.observe_tables`
source_tables = [
    AssetSpec(
        JOBS_TABLE,
        description="The jobs that the web app writes when a user presses Generate; their ids arrive on `jobs:queue`. "
        "Its plots show the waiting jobs: `queue_observer` records them each minute.",
        group_name=WEB_APP,
        kinds={"postgres", "table"},
        owners=[WEB_APP_OWNER],
        metadata={"dagster/column_schema": column_schema("quel_production_jobs")},
    ),
    AssetSpec(
        REFERENCES,
        description="The reference pictures that users uploaded: their rows, and the objects of those rows.",
        group_name=WEB_APP,
        kinds={"postgres", "table"},
        owners=[WEB_APP_OWNER],
        metadata={"dagster/column_schema": column_schema("quel_attach")},
    ),
]

_DESCRIPTIONS = {
    GENERATED_IMAGES: "The pictures that Gemini made, as WebP in the object store, each with its quel_attach row. "
    "One materialization per run, with thumbnails, counts and the result of each unit.",
    PRODUCTION_PHOTO: "The production that a user sees: status, picture ids, counts and duration, after each job. "
    "One materialization per run, with a breakdown of the time and the timeline of the run.",
    CREDITS: "The ledger: one DEDUCT row for every picture, written in the transaction that stores it. "
    "One materialization per run that made a picture, with the payer, and the balance before and after.",
}


@config_mapping(
    config_schema={
        "job_id": Field(String, description=JOB_ID_DESCRIPTION),
        "units": Field(Array(String), is_required=False, default_value=[], description=UNITS_DESCRIPTION),
        "dry_run": Field(Bool, is_required=False, default_value=False, description=DRY_RUN_DESCRIPTION),
    }
)
def which_job(config: Mapping[str, Any]) -> dict[str, Any]:
    return {"load_job": {"config": {name: config[name] for name in ("job_id", "units", "dry_run")}}}


@graph(
    config=which_job,
    ins={name: GraphIn() for name in ("quel_production_jobs", "quel_attach")},
    out={name: GraphOut() for name in (GENERATED_IMAGES, PRODUCTION_PHOTO, CREDITS)},
    description="One job of the Quel web app, from its row to its pictures.",
)
def make_images(quel_production_jobs, quel_attach):  # type: ignore[no-untyped-def]
    plan, units = plan_units(load_job(source_tables=[quel_production_jobs, quel_attach]))
    images, production, ledger = settle(plan, units.map(generate).collect())
    return {GENERATED_IMAGES: images, PRODUCTION_PHOTO: production, CREDITS: ledger}


results = AssetsDefinition.from_graph(
    make_images,
    keys_by_input_name={"quel_production_jobs": JOBS_TABLE, "quel_attach": REFERENCES},
    keys_by_output_name={name: AssetKey(name) for name in _DESCRIPTIONS},
    internal_asset_deps={
        GENERATED_IMAGES: {JOBS_TABLE, REFERENCES},
        PRODUCTION_PHOTO: {IMAGES_KEY},
        CREDITS: {IMAGES_KEY},
    },
    group_name=RESULTS,
    descriptions_by_output_name=_DESCRIPTIONS,
    owners_by_output_name={name: [PIPELINE_OWNER] for name in _DESCRIPTIONS},
    metadata_by_output_name={
        GENERATED_IMAGES: {"dagster/column_schema": column_schema("quel_attach")},
        PRODUCTION_PHOTO: {"dagster/column_schema": column_schema("quel_production_photo")},
        CREDITS: {"dagster/column_schema": column_schema("quel_credits")},
    },
    tags_by_output_name={
        GENERATED_IMAGES: {"dagster/kind/webp": "", "dagster/kind/gemini": ""},
        PRODUCTION_PHOTO: {"dagster/kind/postgres": "", "dagster/kind/table": ""},
        CREDITS: {"dagster/kind/postgres": "", "dagster/kind/table": ""},
    },
)

image_job = define_asset_job(
    "image_job",
    # checks of these assets that can be executed alone are not part of a run: a run evaluates its own
    selection=AssetSelection.assets(IMAGES_KEY, PRODUCTIONS_KEY, CREDITS_KEY).without_checks(),
    description="Makes the pictures of one job. The queue sensor launches one run per job id.",
    # the config that the Launchpad opens with; programs that launch runs send their own
    config={"ops": {make_images.name: {"config": {"job_id": "", "dry_run": True}}}},
)


def run_config(job_id: object, *, units: list[str] | None = None, dry_run: bool = False) -> dict[str, Any]:
    """Return the run config of `image_job` for one job; `units` and `dry_run` as in the Launchpad."""
    config: dict[str, Any] = {"job_id": str(job_id)}
    if units:
        config["units"] = units
    if dry_run:
        config["dry_run"] = True
    return {"ops": {make_images.name: {"config": config}}}
