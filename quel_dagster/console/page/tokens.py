"""Form tokens: a page of another site cannot read or guess one, so its form is refused."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Tokens:
    """Signs forms with a secret of this process; after a restart a form must be confirmed again."""

    _secret: bytes = field(default_factory=lambda: secrets.token_bytes(32), repr=False)

    def sign(self, *parts: str) -> str:
        """Return the token of a form for exactly these values."""
        return hmac.new(self._secret, "\0".join(parts).encode(), hashlib.sha256).hexdigest()

    def fits(self, token: str, *parts: str) -> bool:
        """Return whether this process made the token for exactly these values."""
        return hmac.compare_digest(token.encode(), self.sign(*parts).encode())
