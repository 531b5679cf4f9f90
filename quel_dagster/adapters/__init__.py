"""One door per outside system: queue (Redis), database (PostgreSQL), storage, Gemini."""
