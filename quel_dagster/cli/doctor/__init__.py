"""`quel doctor`: check that every system is reachable and suitable, one line each, with the remedy."""
