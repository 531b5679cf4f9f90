"""Run metadata: names, formats and size of what the Dagster UI shows. Not here: any decision."""
