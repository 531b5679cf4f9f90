"""Write a page with the licence of every locked package; behind `make licences`.

    python -m deploy.licences requirements.lock docs/licences.md

The licence is the SPDX expression of the package's metadata, else its classifiers, else its short `License` field, else
what `KNOWN` says with its source. A package that is not installed on this platform is read from its wheel.
Fails on a package with an unknown or forbidden licence, and writes nothing then.
"""

from __future__ import annotations

import email
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from email.message import Message
from importlib import metadata
from pathlib import Path

#: Licences that this project may depend on: permissive ones, and weak copyleft up to LGPL and MPL.
ALLOWED = {
    *("0BSD", "Apache-2.0", "BSD", "BSD-2-Clause", "BSD-3-Clause", "CC0-1.0", "CNRI-Python", "HPND", "ISC", "MIT"),
    *("MIT-0", "MIT-CMU", "PSF-2.0", "PostgreSQL", "Python-2.0", "Unicode-3.0", "Unlicense", "Zlib"),
    *("LGPL", "LGPL-2.1-only", "LGPL-2.1-or-later", "LGPL-3.0-only", "LGPL-3.0-or-later", "MPL-1.1", "MPL-2.0"),
    "OFL-1.1",  # fonts: free to use and to bundle, only not to be sold by themselves
}
#: What classifiers and free text mean in SPDX terms.
NAMES = {
    "apache 2": "Apache-2.0",
    "apache 2.0": "Apache-2.0",
    "apache license 2.0": "Apache-2.0",
    "apache license, version 2.0": "Apache-2.0",
    "apache software license": "Apache-2.0",
    "apache software license 2.0": "Apache-2.0",
    "bsd license": "BSD",
    "new bsd license": "BSD-3-Clause",
    "3-clause bsd license": "BSD-3-Clause",
    "gnu lesser general public license v3 (lgplv3)": "LGPL-3.0-only",
    "gnu library or lesser general public license (lgpl)": "LGPL",
    "isc license (iscl)": "ISC",
    "lgpl with exceptions": "LGPL",
    "mit license": "MIT",
    "mit no attribution license (mit-0)": "MIT-0",
    "mozilla public license 2.0 (mpl 2.0)": "MPL-2.0",
    "postgresql license": "PostgreSQL",
    "psf": "PSF-2.0",
    "python software foundation license": "PSF-2.0",
    "sil open font license 1.1 (ofl-1.1)": "OFL-1.1",
    "the unlicense (unlicense)": "Unlicense",
}
#: Packages without a licence in their metadata, and the source of it.
KNOWN: Mapping[str, tuple[str, str]] = {}


@dataclass(frozen=True)
class Licence:
    """The licence of one locked package.

    Attributes:
        expression: in SPDX terms; empty when none was found.
        source: where it stands.
    """

    package: str
    version: str
    expression: str
    source: str

    @property
    def problem(self) -> str | None:
        """Why this package cannot be depended on; None when it can."""
        if not self.expression:
            return f"{self.package} {self.version}: no licence in its metadata"
        if not allows(self.expression):
            return f"{self.package} {self.version}: {self.expression} is not allowed"
        return None


def locked(text: str) -> dict[str, str]:
    """Return the packages of a lock file and their versions."""
    return dict(re.findall(r"^([A-Za-z0-9._-]+)==(\S+)", text, re.MULTILINE))


def allows(expression: str) -> bool:
    """Whether an SPDX expression can be met with allowed licences: one side of an OR, both of an AND."""
    for operator, decide in ((" OR ", any), (" AND ", all)):
        parts = _split(expression, operator)
        if len(parts) > 1:
            return decide(map(allows, parts))
    bare = expression.strip()
    if bare.startswith("(") and bare.endswith(")"):
        return allows(bare[1:-1])
    return bare.partition(" WITH ")[0] in ALLOWED  # an exception only ever gives more rights


def _split(expression: str, operator: str) -> list[str]:
    """The parts between an operator outside of parentheses."""
    parts, depth, start, at = [], 0, 0, 0
    while at < len(expression):
        depth += {"(": 1, ")": -1}.get(expression[at], 0)
        if depth == 0 and expression.startswith(operator, at):
            parts.append(expression[start:at])
            at += len(operator)
            start = at
        else:
            at += 1
    return [*parts, expression[start:]]


def licence_of(package: str, version: str, found: Message) -> Licence:
    """Return the licence that a package's metadata states."""
    if expression := found.get("License-Expression"):
        return Licence(package, version, expression, "expression")
    classifiers = [
        line.rpartition(" :: ")[2]
        for line in found.get_all("Classifier") or ()
        if line.startswith("License :: ") and not line.endswith(":: OSI Approved")
    ]
    if classifiers:
        return Licence(package, version, " AND ".join(map(_spdx, classifiers)), "classifier")
    field = " ".join((found.get("License") or "").split())
    if field and field.lower() != "unknown" and len(field) <= 60:
        return Licence(package, version, _spdx(field), "license field")
    return Licence(package, version, *KNOWN.get(package, ("", "")))


def _spdx(name: str) -> str:
    return NAMES.get(name.lower(), name)


def _metadata_of(package: str, version: str) -> Message:
    try:
        installed = metadata.distribution(package)
    except metadata.PackageNotFoundError:
        return _downloaded(package, version)
    if installed.version != version:
        raise SystemExit(f"{package} {installed.version} is installed, {version} is locked: run `make install`.")
    return email.message_from_string(installed.read_text("METADATA") or "")


def _downloaded(package: str, version: str) -> Message:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
        subprocess.run([*command, "--dest", folder, f"{package}=={version}"], check=True)  # noqa: S603
        (wheel,) = Path(folder).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
            return email.message_from_bytes(archive.read(name))


def page(licences: Iterable[Licence]) -> str:
    """Return the page, in Markdown."""
    rows = [f"| {each.package} | {each.version} | {each.expression} | {each.source} |" for each in licences]
    head = [
        "# Licences",
        "",
        "For those who distribute this project. Every package of `requirements.lock`, also those of tests and sandbox;",
        "written by `make licences`, which fails on one without a licence or with copyleft beyond LGPL and MPL.",
        "",
        "| package | version | licence | where it stands |",
        "| --- | --- | --- | --- |",
    ]
    return "\n".join([*head, *rows]) + "\n"


def main(lock: Path, target: Path) -> int:
    """Write the page, or print what is wrong, one line a package."""
    packages = locked(lock.read_text())
    found = [licence_of(name, version, _metadata_of(name, version)) for name, version in packages.items()]
    problems = [each.problem for each in found if each.problem]
    for problem in problems:
        sys.stderr.write(f"{problem}\n")
    if not problems:
        target.write_text(page(found))
    return 1 if problems else 0


if __name__ == "__main__":
    raise SystemExit(main(Path(sys.argv[1]), Path(sys.argv[2])))
