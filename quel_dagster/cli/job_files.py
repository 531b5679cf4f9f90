"""Read a job file, and pictures given on the command line."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from quel_dagster.errors import JobInputError, PictureError, QuelError
from quel_dagster.jobs.job_file import JobFile, read_job_file

JobPath = Annotated[Path, typer.Argument(metavar="FILE", help="A job as JSON (docs/examples); - reads stdin.")]
References = Annotated[
    list[str] | None,
    typer.Option(
        "--reference",
        "-r",
        metavar="TYPE=PICTURE",
        help="Upload a picture and add it to the job, such as model=photo.jpg; may be repeated.",
    ),
]


@dataclass(frozen=True)
class LocalPicture:
    """A local picture to add to the job."""

    type: str
    path: Path
    data: bytes

    @property
    def name(self) -> str:
        """The file name, usable in a storage key."""
        return re.sub(r"[^A-Za-z0-9._-]+", "-", self.path.name)[-100:]


def read_job(file: Path) -> tuple[JobFile, dict[str, Any]]:
    """Read and check a job file; return it with its unmodified job_input_data.

    Raises:
        QuelError: it cannot be read, or is not a job; the message names the field.
    """
    try:
        given = json.loads(sys.stdin.read() if str(file) == "-" else file.read_text(encoding="utf-8"))
    except OSError as error:
        raise QuelError(f"{file}: {error.strerror or error}.") from None
    except (ValueError, RecursionError) as error:
        raise QuelError(f"{file} is not JSON: {error}.") from None
    try:
        return read_job_file(given), given["job_input_data"]
    except JobInputError as error:
        raise QuelError(f"{file}: {error}.") from None


def read_references(given: list[str] | None) -> list[LocalPicture]:
    """Read the pictures of `--reference`.

    Raises:
        QuelError: the argument is not TYPE=PICTURE, the file cannot be read, or it is not a picture.
    """
    from quel_dagster.jobs.pictures import thumbnail  # noqa: PLC0415  brings Pillow

    pictures = []
    for word in given or ():
        kind, equals, name = word.partition("=")
        if not equals or not kind.strip() or not name:
            raise QuelError(f"--reference {word!r:.80}: write TYPE=PICTURE, such as model=photo.jpg.")
        path = Path(name).expanduser()
        try:
            data = path.read_bytes()
            thumbnail(data)
        except OSError as error:
            raise QuelError(f"{path}: {error.strerror or error}.") from None
        except PictureError as error:
            raise QuelError(f"{path}: {error}.") from None
        pictures.append(LocalPicture(kind.strip().lower(), path, data))
    return pictures
