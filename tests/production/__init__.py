"""The shape of production: a shared database, a pooler, roles of little power, an HTTP object store, a strict Redis."""
