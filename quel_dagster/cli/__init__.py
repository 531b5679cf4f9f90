"""The `quel` command line: thin over the library."""
