"""Input that a browser can write into a row, and targets of its references, through the whole installation."""

from __future__ import annotations

import io
import re
import socket
from typing import Any

import pytest
from PIL import Image

from tests.faults.desk import Desk

#: every how many-th of a list: what each does by itself is tested in tests/unit/jobs and tests/integration/storage
some_or_all = pytest.mark.parametrize(
    "every", [pytest.param(4, id="some"), pytest.param(1, id="all", marks=pytest.mark.fault_all)]
)

#: read leniently, the job is made; and whether that takes a repair, which is a line in the run's log
REPAIRED: list[tuple[str, Any, bool]] = [
    ("single_batch", {"basePrompt": "x", "combinations": [None, 3, {"quantity": "2.0"}, ["deep", ["deeper"]]]}, True),
    ("single_batch", {"basePrompt": "x", "combinations": [{"quantity": -4, "angle": {"a": 1}}]}, True),
    ("single_batch", {"basePrompt": "한복 입은 모델 👗 \u202e", "aspect-ratio": "1:1"}, False),
    ("pipeline_stage", {"stages": [{"stage_index": "7.0", "quantity": 1.0}, {"stage_index": None}]}, True),
    ("pipeline_stage", {"stages": None}, False),
    ("simple_general", {"prompt": 7, "uploadedAttachIds": " "}, True),
    ("simple_general", {"prompt": None}, False),
    ("simple_general", {}, False),
]


@some_or_all
async def test_input_that_can_be_repaired(desk: Desk, every: int) -> None:
    some = REPAIRED[::every]
    jobs = [await desk.job(2, job_type=job_type, input_data=data) for job_type, data, _ in some]
    for given, job_id in zip(some, jobs, strict=True):
        row = await desk.until_ended(job_id)
        assert (row["status"], row["completed_images"]) == ("completed", 2), (given, row["error_message"])
        logged = "".join(event.user_message for event in desk.site.instance.all_logs(desk.runs(job_id)[0].run_id))
        assert ("Repaired " in logged) == given[2], given


#: no safe meaning: refused before Gemini is asked, in a line that opens with the field
REFUSED: list[tuple[str, Any, str]] = [
    ("pipeline_stage", {"stages": [{"prompt": "x", "quantity": 1}] * 10_000}, "stages: 10000 items"),
    ("single_batch", ["a", "list"], "job_input_data: "),
    ("single_batch", "text", "job_input_data: "),
    ("single_batch", {"basePrompt": "x", "combinations": "no list"}, "combinations: "),
    ("single_batch", {"basePrompt": "x", "combinations": [{"quantity": 1e30}]}, "combinations[0].quantity: "),
    ("simple_general", {"prompt": "x" * 1_000_000}, "prompt: 1000000 characters"),
    ("simple_general", {"uploadedAttachIds": "none"}, "uploadedAttachIds: "),
    ("simple_portrait", {"basePrompt": "x", "mergedImages": [{"wrappingPrompt": None}]}, "mergedImages: "),
]


async def test_input_that_cannot(desk: Desk) -> None:
    jobs = [await desk.job(2, job_type=job_type, input_data=data) for job_type, data, _ in REFUSED]
    for (_, _, opening), job_id in zip(REFUSED, jobs, strict=True):
        desk.excuse(f"^{re.escape(opening)}", job_id)
        row = await desk.until_ended(job_id)
        assert row["status"] == "failed", (opening, desk.describe(job_id))
        assert row["error_message"].startswith(opening), row["error_message"][:200]
        assert len(row["error_message"].splitlines()) == 1
        assert len(row["error_message"]) < 500
        assert desk.charged(job_id) == 0
    assert desk.site.gemini.state.report()["total"] == 0


def _encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def _bomb() -> bytes:
    """A PNG of 30,000 × 30,000 pixels in a few hundred kilobytes."""
    return _encoded(Image.new("1", (30_000, 30_000)), "PNG")


@some_or_all
async def test_references_that_are_left_out(desk: Desk, every: int) -> None:
    """With one good reference the pictures are made from it; without any they are not made."""
    elsewhere = socket.create_server(("127.0.0.1", 0))
    elsewhere.setblocking(False)
    outside = elsewhere.getsockname()[1]
    desk.site.storage.redirects["moved.png"] = f"http://127.0.0.1:{outside}/x.png"
    jpeg = _encoded(Image.new("RGB", (400, 400), "red"), "JPEG")
    broken = [
        10**12,
        await desk.reference(b"", path=""),
        await desk.reference(b"", path="upload-nothing-there.png"),
        await desk.reference(b"", path="../../etc/passwd"),
        await desk.reference(b"", path="%2e%2e/%2e%2e/etc/passwd"),
        await desk.reference(b"", path=f"http://127.0.0.1:{outside}/x.png"),
        await desk.reference(b"", path=f"@127.0.0.1:{outside}/x.png"),
        await desk.reference(b"", path="moved.png"),
        await desk.reference(b"<svg xmlns='http://www.w3.org/2000/svg'/>"),
        await desk.reference(jpeg[: len(jpeg) // 3]),
        await desk.reference(_bomb()),
        await desk.reference(b"\x89PNG" + bytes(1000)),
    ][::every]
    jobs = [await desk.job(1, references=[each, await desk.reference()], prompt="mixed") for each in broken]
    alone = [await desk.job(1, references=[each], prompt="alone") for each in broken]
    desk.excuse("Made without some references", *jobs, pictures=0)
    desk.excuse("reference", *alone)
    for each, job_id in zip(broken, jobs, strict=True):
        row = await desk.until_ended(job_id)
        assert (row["status"], row["completed_images"]) == ("completed", 1), (each, row["error_message"])
    for each, job_id in zip(broken, alone, strict=True):
        row = await desk.until_ended(job_id)
        assert (row["status"], row["completed_images"]) == ("failed", 0), each
        assert str(each) in row["error_message"] or "reference" in row["error_message"]
        assert desk.charged(job_id) == 0
    with elsewhere, pytest.raises(BlockingIOError):
        elsewhere.accept()  # no connection came


@pytest.mark.fault_all
async def test_references_that_can_be_handled(desk: Desk) -> None:
    colours = Image.new("RGB", (300, 200), "orange")
    exif = Image.Exif()
    exif[0x0112] = 6
    frames = [Image.new("RGB", (64, 64), name) for name in ("red", "green", "blue")]
    good = [
        _encoded(colours.convert("CMYK"), "JPEG"),
        _encoded(Image.new("I;16", (64, 64), 30_000), "PNG"),
        _encoded(colours, "JPEG", exif=exif),
        _encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]),
        _encoded(colours.convert("RGBA"), "WEBP"),
        _encoded(colours.convert("P"), "PNG"),
    ]
    jobs = [await desk.job(1, references=[await desk.reference(data)]) for data in good]
    for job_id in jobs:
        row = await desk.until_ended(job_id)
        assert (row["status"], row["completed_images"]) == ("completed", 1), row["error_message"]


@pytest.mark.fault_all
async def test_a_reference_of_200_megabytes(desk: Desk) -> None:
    """Refused by its size before it fills the memory."""
    reference = await desk.reference(b"x" * 200_000_000)
    job_id = await desk.job(1, references=[reference])
    desk.excuse("reference", job_id)
    row = await desk.until_ended(job_id)
    assert (row["status"], row["completed_images"]) == ("failed", 0)
    assert desk.charged(job_id) == 0
