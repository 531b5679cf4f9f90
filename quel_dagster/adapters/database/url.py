"""The URL of a PostgreSQL database."""

from __future__ import annotations

import re
from dataclasses import dataclass

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from quel_dagster.errors import SettingsError

#: schema for Dagster's storage and this project's tables in the web app's database
OWN_SCHEMA = "quel_dagster"
#: Read alike by libpq and SQLAlchemy, and by Supabase's pooler, which drops the shorter `-csearch_path=…`.
_SEARCH_PATH = f"-c%20search_path%3D{OWN_SCHEMA}"
_BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")


@dataclass(frozen=True)
class DatabaseUrl:
    """A PostgreSQL URL for SQLAlchemy with psycopg 3. Its repr never shows the password."""

    url: URL

    @classmethod
    def parse(cls, text: str, variable: str = "DATABASE_URL") -> DatabaseUrl:
        """Raises SettingsError when `text` is no PostgreSQL URL."""
        _check_password(text, variable)
        try:
            url = make_url(text)
        except (ArgumentError, ValueError):  # ValueError: a port that is no number
            raise SettingsError(
                f"{variable} is not a URL; use postgresql://user:password@host:5432/database."
            ) from None
        if url.get_backend_name() not in {"postgresql", "postgres"}:
            raise SettingsError(f"{variable} must begin with postgresql://, not {url.drivername}://.")
        return cls(url.set(drivername="postgresql+psycopg"))

    def __str__(self) -> str:
        return self.url.render_as_string(hide_password=True)


def with_psycopg2(url: str) -> str:
    """Return the URL with psycopg2 as its driver, which dagster-postgres needs.

    Raises:
        SettingsError: it is not a PostgreSQL URL.
    """
    DatabaseUrl.parse(url)
    return f"postgresql+psycopg2://{url.partition('://')[2]}"


def for_libpq(url: str) -> str:
    """Return the URL without a driver, as psql and psycopg read it."""
    return f"postgresql://{url.partition('://')[2]}"


def in_own_schema(url: str) -> str:
    """Return the URL with the search path `quel_dagster` alone.

    Other options of the URL stay; a search path among them is replaced, because the last one counts.
    """
    base, _, query = url.partition("?")
    parameters = [parameter for parameter in query.split("&") if parameter]
    options = [parameter.partition("=")[2] for parameter in parameters if parameter.startswith("options=")]
    others = [parameter for parameter in parameters if not parameter.startswith("options=")]
    return f"{base}?{'&'.join([*others, 'options=' + '%20'.join([*options, _SEARCH_PATH])])}"


def without_options(url: str) -> str:
    """Return the URL without connection options."""
    base, _, query = url.partition("?")
    others = [parameter for parameter in query.split("&") if parameter and not parameter.startswith("options=")]
    return f"{base}?{'&'.join(others)}" if others else base


def _check_password(text: str, variable: str) -> None:
    """Refuse a password with a character that a URL parser takes for its end.

    Raises:
        SettingsError: names the character and how to write it, never the password.
    """
    address = text.partition("://")[2]
    query = address.rfind("?")
    if query > address.rfind("@"):  # an "@" behind the "?" belongs to no password
        address = address[:query]
    password = address.rpartition("@")[0].partition(":")[2]
    for character in "@/ ":
        if character in password:
            raise SettingsError(
                f"{variable}: the password holds {character!r} as it is; write it as %{ord(character):02X}."
            )
    if _BAD_ESCAPE.search(password):
        raise SettingsError(f"{variable}: the password holds '%' as it is; write it as %25.")
