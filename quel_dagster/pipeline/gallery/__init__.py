"""The gallery: the pictures of jobs on one page."""
