"""The operators' view: headless Chromium against a real `quel up`; with --tour it takes a screenshot of every scene."""
