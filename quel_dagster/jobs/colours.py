"""Convert the colour profile of a reference picture to sRGB."""

from __future__ import annotations

import io
from functools import lru_cache
from typing import Final

from PIL import Image, ImageCms

#: test colours that distinguish profiles: greys for the tone curve, saturated ones for the primaries
_PROBES: Final = (
    *((level, level, level) for level in (16, 64, 118, 128, 190, 240)),
    *((230, 20, 20), (20, 230, 20), (20, 20, 230), (200, 160, 130), (60, 90, 140), (240, 200, 40)),
)
#: of 255; two ways to write sRGB's tone curve differ by less
_SAME_WITHIN: Final = 2


def foreign_profile(image: Image.Image) -> ImageCms.ImageCmsProfile | None:
    """Return the colour profile unless there is none, it is sRGB by its numbers, or it cannot be read."""
    raw = image.info.get("icc_profile")
    return _foreign(bytes(raw)) if raw else None


@lru_cache(maxsize=32)
def _foreign(raw: bytes) -> ImageCms.ImageCmsProfile | None:
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(raw))
        return None if _is_srgb(profile) else profile
    except (ImageCms.PyCMSError, OSError):
        return None


def _is_srgb(profile: ImageCms.ImageCmsProfile) -> bool:
    """Return whether the profile maps colours as sRGB does; its description is not trusted."""
    if profile.profile.xcolor_space.strip() != "RGB":
        return False
    probes = Image.new("RGB", (len(_PROBES), 1))
    probes.putdata(_PROBES)
    converted = ImageCms.profileToProfile(probes, profile, ImageCms.createProfile("sRGB"))
    if converted is None:
        return False
    pairs = zip(probes.tobytes(), converted.tobytes(), strict=True)
    return max(abs(before - after) for before, after in pairs) <= _SAME_WITHIN


def in_srgb(image: Image.Image, profile: ImageCms.ImageCmsProfile | None) -> Image.Image:
    """Return the picture as RGB or RGBA in sRGB."""
    mode = "RGBA" if image.mode == "RGBA" else "RGB"
    if profile is not None:
        try:
            converted = ImageCms.profileToProfile(image, profile, ImageCms.createProfile("sRGB"), outputMode=mode)
        except ImageCms.PyCMSError:
            pass  # a profile of another kind of picture (RGB on grey): without it the colours are nearly right
        else:
            if converted is not None:
                return converted
    return image if image.mode == mode else image.convert(mode)
