"""Quel image jobs as Dagster runs; the README tells how to start, docs/ tells the rest."""
