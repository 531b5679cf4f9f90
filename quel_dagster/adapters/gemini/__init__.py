"""The adapter of Gemini: request, answer, errors, retries (domain.md §6)."""
