"""PostgreSQL URLs: what libpq and SQLAlchemy read alike, and passwords that end too early."""

from __future__ import annotations

import pytest
from psycopg.conninfo import conninfo_to_dict
from sqlalchemy.engine import make_url

from quel_dagster.adapters.database.url import DatabaseUrl, for_libpq, in_own_schema, with_psycopg2, without_options
from quel_dagster.errors import SettingsError


def test_dagsters_url_names_its_driver() -> None:
    assert with_psycopg2("postgresql://u:p@h/d?sslmode=require") == "postgresql+psycopg2://u:p@h/d?sslmode=require"
    assert with_psycopg2("postgresql+psycopg://u@h/d") == "postgresql+psycopg2://u@h/d"
    assert with_psycopg2("postgres://u@h/d") == "postgresql+psycopg2://u@h/d"
    with pytest.raises(SettingsError, match=r"^DATABASE_URL must begin with postgresql://"):
        with_psycopg2("mysql://u:secret@h/d")


@pytest.mark.parametrize(
    ("url", "options"),
    [
        ("postgresql://u@h/d", "-c search_path=quel_dagster"),
        ("postgresql://u@h/d?sslmode=require", "-c search_path=quel_dagster"),
        (
            "postgresql://u@h/d?options=-c%20statement_timeout%3D5s&sslmode=require",
            "-c statement_timeout=5s -c search_path=quel_dagster",
        ),
        ("postgresql://u@h/d?options=-csearch_path%3Dpublic", "-csearch_path=public -c search_path=quel_dagster"),
    ],
)
def test_libpq_and_sqlalchemy_read_the_same_search_path(url: str, options: str) -> None:
    """libpq refused the unescaped form, so doctor, status, show and audit could not open Dagster's storage."""
    made = in_own_schema(url)
    assert conninfo_to_dict(made)["options"] == options
    assert make_url(made).query["options"] == options
    assert conninfo_to_dict(for_libpq(with_psycopg2(made)))["options"] == options
    assert ("sslmode=require" in made) is ("sslmode" in url)
    assert "options" not in conninfo_to_dict(without_options(made))


@pytest.mark.parametrize(
    ("password", "says"),
    [
        ("p@ss", "'@' as it is; write it as %40"),
        ("p/ss", "'/' as it is; write it as %2F"),
        ("p%ss", "%25"),
        ("p s", "%20"),
    ],
)
def test_a_password_that_ends_too_early_is_named_by_its_character(password: str, says: str) -> None:
    with pytest.raises(SettingsError) as refused:
        DatabaseUrl.parse(f"postgresql://user:{password}@host:5432/db?sslmode=require", "DAGSTER_DATABASE_URL")
    assert str(refused.value).startswith("DAGSTER_DATABASE_URL: the password holds ")
    assert says in str(refused.value)
    assert password not in str(refused.value)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://u:p%40%2Fss@h/d",
        "postgresql://u:p#?!$&*()=+;,ss@h/d",
        "postgresql://u@h/d?application_name=a@b/c",
        "postgresql:///d?host=/run/postgresql",
        "postgresql://h/d",
    ],
)
def test_urls_that_work_are_taken(url: str) -> None:
    DatabaseUrl.parse(url)


def test_a_port_that_is_no_number_is_no_url() -> None:
    with pytest.raises(SettingsError, match="is not a URL"):
        DatabaseUrl.parse("postgresql://u:p@h:port/d")
