"""The names of the assets, in one place: ops yield them, assets describe them, checks look at them."""

from dagster import AssetKey

#: what settle yields
GENERATED_IMAGES = "generated_images"
PRODUCTION_PHOTO = "quel_production_photo"
CREDITS = "quel_credits"

IMAGES_KEY = AssetKey(GENERATED_IMAGES)
PRODUCTIONS_KEY = AssetKey(PRODUCTION_PHOTO)
CREDITS_KEY = AssetKey(CREDITS)

#: what the web app writes
JOBS_TABLE = AssetKey("quel_production_jobs")
REFERENCES = AssetKey("quel_attach")

DAILY_SUMMARY = AssetKey("daily_summary")
