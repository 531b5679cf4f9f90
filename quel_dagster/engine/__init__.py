"""Make the pictures of one job: from a planned unit to committed pictures, without Dagster."""
