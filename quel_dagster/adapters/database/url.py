"""The URL of a PostgreSQL database."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from quel_dagster.errors import SettingsError


@dataclass(frozen=True)
class DatabaseUrl:
    """A PostgreSQL URL, made ready for SQLAlchemy with psycopg 3. Never shows its password."""

    url: URL

    @classmethod
    def parse(cls, text: str, variable: str = "DATABASE_URL") -> DatabaseUrl:
        """Raises SettingsError when `text` is no PostgreSQL URL."""
        try:
            url = make_url(text)
        except ArgumentError:
            raise SettingsError(
                f"{variable} is not a URL; use postgresql://user:password@host:5432/database."
            ) from None
        if url.get_backend_name() not in {"postgresql", "postgres"}:
            raise SettingsError(f"{variable} must begin with postgresql://, not {url.drivername}://.")
        return cls(url.set(drivername="postgresql+psycopg"))

    def __str__(self) -> str:
        return self.url.render_as_string(hide_password=True)
