"""Access to PostgreSQL: every SQL statement of this project is in this package.

`schema/web_app.sql` creates the web app's tables in an embedded database, never in another one. `migrations/` creates
the schema of this project with the functions that hold the transactions; `work`, `recovery` and `jobs` call them.
"""
