"""The page at /quel: the state of the installation, its jobs with their pictures, and actions on them.

Server-rendered HTML on Dagster's web server; no build step, and readable without a script. `static/refresh.js` only
reloads the same page and replaces its content.
"""
