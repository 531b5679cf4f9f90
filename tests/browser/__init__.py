"""What operators see: headless Chromium against a real `quel up`, with a screenshot of every scene."""
