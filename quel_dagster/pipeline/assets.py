"""The lineage: the tables that the web app writes, and what every run makes of them."""

from collections.abc import Mapping
from typing import Any

from dagster import (
    AssetKey,
    AssetsDefinition,
    AssetSpec,
    Field,
    GraphIn,
    GraphOut,
    String,
    config_mapping,
    define_asset_job,
    graph,
)

from quel_dagster.pipeline.ops import (
    CREDITS,
    GENERATED_IMAGES,
    JOB_ID_DESCRIPTION,
    PRODUCTION_PHOTO,
    generate,
    load_job,
    plan_units,
    settle,
)

WEB_APP = "web_app"
RESULTS = "results"
JOBS_TABLE = AssetKey("quel_production_jobs")
REFERENCES = AssetKey("quel_attach")

source_tables = [
    AssetSpec(
        JOBS_TABLE,
        description="The jobs that the web app writes when a user presses Generate; their ids arrive on `jobs:queue`.",
        group_name=WEB_APP,
        kinds={"postgres", "table"},
    ),
    AssetSpec(
        REFERENCES,
        description="The reference pictures that users uploaded: their rows, and the objects that these point at.",
        group_name=WEB_APP,
        kinds={"postgres", "table"},
    ),
]

_DESCRIPTIONS = {
    GENERATED_IMAGES: "The pictures that Gemini made, as WebP in the object store, each with its quel_attach row.",
    PRODUCTION_PHOTO: "The production that a user sees: status, picture ids, counts and duration, after each job.",
    CREDITS: "The ledger: one DEDUCT row for every picture, written in the transaction that stores it.",
}


@config_mapping(config_schema={"job_id": Field(String, description=JOB_ID_DESCRIPTION)})
def which_job(config: Mapping[str, Any]) -> dict[str, Any]:
    return {"load_job": {"config": {"job_id": config["job_id"]}}}


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
        PRODUCTION_PHOTO: {AssetKey(GENERATED_IMAGES)},
        CREDITS: {AssetKey(GENERATED_IMAGES)},
    },
    group_name=RESULTS,
    descriptions_by_output_name=_DESCRIPTIONS,
    tags_by_output_name={
        GENERATED_IMAGES: {"dagster/kind/webp": "", "dagster/kind/gemini": ""},
        PRODUCTION_PHOTO: {"dagster/kind/postgres": "", "dagster/kind/table": ""},
        CREDITS: {"dagster/kind/postgres": "", "dagster/kind/table": ""},
    },
)

image_job = define_asset_job(
    "image_job",
    selection=[results],
    description="Makes the pictures of one job. The queue sensor launches one run per job id.",
)


def run_config(job_id: object) -> dict[str, Any]:
    """Run config of `image_job` for one job."""
    return {"ops": {make_images.name: {"config": {"job_id": str(job_id)}}}}
