"""The `quel` command line: a thin layer over the library."""
