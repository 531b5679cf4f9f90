"""What Dagster shows: ops, assets, checks, sensors, schedules, resources, run metadata."""
