"""The door to PostgreSQL: every SQL statement of this project lives in this room (and nowhere else).

`schema/web_app.sql` creates the web app's tables in an embedded database, never in one that exists;
`schema/quel_dagster.sql` is our own schema, whose functions hold the transactions; `store.py` calls them.
"""
