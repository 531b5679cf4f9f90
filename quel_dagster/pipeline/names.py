"""The names of the assets: ops yield them, assets describe them, checks check them."""

from dagster import AssetKey

#: materialized by settle
GENERATED_IMAGES = "generated_images"
PRODUCTION_PHOTO = "quel_production_photo"
CREDITS = "quel_credits"

IMAGES_KEY = AssetKey(GENERATED_IMAGES)
PRODUCTIONS_KEY = AssetKey(PRODUCTION_PHOTO)
CREDITS_KEY = AssetKey(CREDITS)

#: written by the web app
JOBS_TABLE = AssetKey("quel_production_jobs")
REFERENCES = AssetKey("quel_attach")

DAILY_SUMMARY = AssetKey("daily_summary")
