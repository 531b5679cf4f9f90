"""Shorten a server's message to one line without keys and links."""

from __future__ import annotations

import re

from quel_dagster.jobs.texts import without_links

_CHARACTERS = 240
#: Google's own messages quote keys ("Consumer 'api_key:AIza…' has been suspended").
_GOOGLE_KEY = re.compile(r"AIza[0-9A-Za-z_-]{20,}")
#: words that decide the remedy; they are kept when a long message is cut
DECISIVE = re.compile(
    r"limit: 0\b|\bPerDay\w*|prepay\w*|prepaid\w*|credits? (?:are|is|have been) depleted"
    r"|spend(?:ing)? (?:cap|limit)\w*",
    re.IGNORECASE,
)


def excerpt(said: object, *, secret: str = "") -> str:
    """Return the words of a server as one line of about 240 characters, and the decisive words behind it.

    Gemini quotes the text of users, so that its addresses are broken (`jobs.texts`).
    """
    line = " ".join("".join(c if c.isprintable() else " " for c in str(said or "")).split())
    if secret:
        line = line.replace(secret, "***")
    line = without_links(_GOOGLE_KEY.sub("***", line))
    if len(line) <= _CHARACTERS:
        return line
    kept = line[: _CHARACTERS - 1].rstrip() + "…"
    lost = dict.fromkeys(found for found in DECISIVE.findall(line) if found.lower() not in kept.lower())
    return f"{kept} {', '.join(lost)}" if lost else kept
