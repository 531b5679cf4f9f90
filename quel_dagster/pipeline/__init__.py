"""Everything Dagster: ops, assets, checks, sensors, run launcher, resources, run metadata."""
