"""The process manager of `quel up` and `quel worker`."""
