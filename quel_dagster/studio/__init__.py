"""Where pictures are made: the Dagster-free flow from a planned unit to committed pictures."""
