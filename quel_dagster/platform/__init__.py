"""How Dagster runs here: launcher, run queue, daemon, worker, web server and storage."""
