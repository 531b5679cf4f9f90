"""What a job is: parsing, units and slots, prompts, pictures. No Dagster, no I/O."""
