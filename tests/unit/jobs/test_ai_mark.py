"""Stored pictures say that an AI made them, where other programs look for it."""

from __future__ import annotations

import io
import struct
import xml.etree.ElementTree as ET

from PIL import Image

from quel_dagster.jobs.pictures import to_webp

RDF = "{http://www.w3.org/1999/02/22-rdf-syntax-ns#}"
IPTC = "{http://iptc.org/std/Iptc4xmpExt/2008-02-29/}"


def png(mode: str = "RGB") -> bytes:
    out = io.BytesIO()
    Image.new(mode, (64, 48), "teal").save(out, "PNG")
    return out.getvalue()


def chunks(webp: bytes) -> dict[bytes, bytes]:
    """The RIFF chunks of a WebP file, read by hand: what a program without Pillow sees."""
    found: dict[bytes, bytes] = {}
    position = 12
    while position + 8 <= len(webp):
        name, length = struct.unpack_from("<4sI", webp, position)
        found[name] = webp[position + 8 : position + 8 + length]
        position += 8 + length + length % 2
    return found


def test_stored_picture_carries_iptcs_source_type() -> None:
    for mode in ("RGB", "RGBA", "L"):
        found = chunks(to_webp(png(mode)).data)
        assert found[b"VP8X"][0] & 0b100, "the flag that says that there is XMP"
        packet = ET.fromstring(found[b"XMP "].decode())  # noqa: S314  our own
        (description,) = packet.iter(f"{RDF}Description")
        assert description.get(f"{IPTC}DigitalSourceType") == (
            "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
        )


def test_mark_of_gemini_in_the_original_is_not_needed_for_it() -> None:
    """The stored file has this project's XMP and no other, with or without metadata in Gemini's file."""
    out = io.BytesIO()
    Image.new("RGB", (64, 48)).save(out, "WEBP", xmp=b"<other/>")
    assert b"<other/>" not in to_webp(out.getvalue()).data


def test_thumbnail_of_the_run_page_stays_small() -> None:
    assert b"XMP " not in chunks(to_webp(png()).thumbnail)
