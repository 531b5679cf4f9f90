-- Dagster's own storage in a database of its own: its events outgrow the web app's tables.
create database dagster;
