"""`quel doctor`: whether every outside part is there and fit, one line each, with the remedy."""
