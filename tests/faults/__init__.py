"""Every way of failing, done for real against a whole installation (docs/reliability.md)."""
