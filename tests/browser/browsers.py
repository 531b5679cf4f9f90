"""Finding a browser: one on the machine, else the distribution's package, else Playwright's download."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
from collections.abc import AsyncIterator
from contextlib import suppress

from playwright.async_api import Browser, Error, Playwright

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "google-chrome-for-testing")
ARGUMENTS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
INSTALL_SECONDS = 300


class NoBrowserError(Exception):
    """No browser is available here; the message names the attempts."""


async def start_browser(playwright: Playwright) -> Browser:
    """The first browser that starts; one that is there and does not (a stub, a library missing) is passed over.

    Raises:
        NoBrowserError: none does.
    """
    tried: list[str] = []
    async for what, path in _candidates(playwright, tried):
        try:
            return await playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        except Error as error:
            tried.append(f"{what} does not start ({error.message.splitlines()[0][:100]})")
    raise NoBrowserError("no browser: " + "; ".join(tried))


async def _candidates(playwright: Playwright, tried: list[str]) -> AsyncIterator[tuple[str, str]]:
    found = [(name, path) for name in NAMES if (path := shutil.which(name))]
    for candidate in found:
        yield candidate
    if not found:
        tried.append(f"none of {', '.join(NAMES)} on this machine")
    if os.geteuid() == 0 and shutil.which("apt-get"):
        for command in (["apt-get", "update"], ["apt-get", "install", "--yes", "--no-install-recommends", "chromium"]):
            if said := await _run(command, {"DEBIAN_FRONTEND": "noninteractive"}):
                tried.append(said)
                break
        if path := shutil.which("chromium"):
            yield "the distribution's chromium", path
    else:
        tried.append("no right to install the distribution's package")
    path = playwright.chromium.executable_path
    if not os.path.exists(path) and (said := await _run([sys.executable, "-m", "playwright", "install", "chromium"])):  # noqa: PTH110, ASYNC240
        tried.append(said)
        return
    yield "Playwright's download", path


async def _run(command: list[str], more: dict[str, str] | None = None) -> str | None:
    """Return None on success, else the error message."""
    what = " ".join(command[-3:] if "playwright" in command else command)
    process = await asyncio.create_subprocess_exec(
        *command,
        env={**os.environ, **(more or {})},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(INSTALL_SECONDS):
            _, err = await process.communicate()
    except TimeoutError:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        return f"`{what}` took more than {INSTALL_SECONDS} s"
    lines = [line.strip() for line in err.decode(errors="replace").splitlines() if line.strip()] or ["no reason given"]
    why = next((line for line in lines if "error" in line.lower()), lines[-1])
    return f"`{what}` failed ({why[:120]})" if process.returncode else None
