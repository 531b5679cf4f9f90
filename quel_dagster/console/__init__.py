"""Operators' queries and actions, shared by the command line and the page at /quel so that both agree.

Not here: SQL (`adapters.database`), printing (`cli`) or HTML (`console.page`).
"""
