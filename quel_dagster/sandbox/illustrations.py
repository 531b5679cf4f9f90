"""Flat illustrations of the things that users upload: people, garments, products, dishes, characters, places.

Each is drawn with Pillow at twice its size and reduced, so that edges are smooth. Coordinates are in percent of the
picture's width, from the top left; `SUBJECTS` names what can be drawn.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence

from PIL import Image, ImageDraw, ImageOps

Point = tuple[float, float]
_OVERSAMPLING = 2


class Sketch:
    """A canvas with a vertical gradient, and flat shapes on it. Colours may carry alpha (`#rrggbbaa`)."""

    def __init__(self, width: int, height: int, top: str, bottom: str) -> None:
        self.height = 100 * height / width  # in percent of the width, as every coordinate
        self._unit = _OVERSAMPLING * width / 100
        ramp = ImageOps.colorize(Image.linear_gradient("L"), top, bottom)
        self._image = ramp.resize((_OVERSAMPLING * width, _OVERSAMPLING * height), Image.Resampling.BILINEAR)
        self._pen = ImageDraw.Draw(self._image, "RGBA")

    def picture(self) -> Image.Image:
        """The drawing at its own size, RGB."""
        return self._image.reduce(_OVERSAMPLING)

    def ellipse(self, x: float, y: float, rx: float, ry: float, fill: str) -> None:
        self._pen.ellipse(self._scaled([(x - rx, y - ry), (x + rx, y + ry)]), fill=fill)

    def box(  # noqa: PLR0917  four edges are read as one
        self, left: float, top: float, right: float, bottom: float, fill: str, radius: float = 0
    ) -> None:
        corners = self._scaled([(left, top), (right, bottom)])
        self._pen.rounded_rectangle(corners, radius * self._unit, fill=fill)

    def polygon(self, points: Sequence[Point], fill: str) -> None:
        self._pen.polygon(self._scaled(points), fill=fill)

    def blob(self, points: Sequence[Point], fill: str) -> None:
        """A closed smooth shape through the points."""
        self._pen.polygon(self._scaled(_smooth(points)), fill=fill)

    def line(self, points: Sequence[Point], fill: str, width: float, *, smooth: bool = True) -> None:
        path = self._scaled(_smooth(points, closed=False) if smooth else points)
        self._pen.line(path, fill=fill, width=round(width * self._unit), joint="curve")
        for x, y in (path[0], path[-1]):
            r = width * self._unit / 2
            self._pen.ellipse([x - r, y - r, x + r, y + r], fill=fill)

    def arc(  # noqa: PLR0917  centre, radii and angles are read as one
        self, x: float, y: float, rx: float, ry: float, start: float, end: float, fill: str, width: float
    ) -> None:
        corners = self._scaled([(x - rx, y - ry), (x + rx, y + ry)])
        self._pen.arc(corners, start, end, fill=fill, width=round(width * self._unit))

    def mirrored(self, points: Sequence[Point], axis: float = 50) -> list[Point]:
        """The half outline `points`, completed with its mirror image."""
        return [*points, *((2 * axis - x, y) for x, y in reversed(points))]

    def _scaled(self, points: Sequence[Point]) -> list[Point]:
        return [(x * self._unit, y * self._unit) for x, y in points]


def _smooth(points: Sequence[Point], *, closed: bool = True, steps: int = 8) -> list[Point]:
    """A Catmull-Rom curve through the points."""
    count = len(points)
    last = count if closed else count - 1

    def at(index: int) -> Point:
        return points[index % count] if closed else points[min(max(index, 0), count - 1)]

    curve: list[Point] = []
    for i in range(last):
        a, b, c, d = at(i - 1), at(i), at(i + 1), at(i + 2)
        for step in range(steps):
            t = step / steps
            curve.append((_between(t, a[0], b[0], c[0], d[0]), _between(t, a[1], b[1], c[1], d[1])))
    return curve if closed else [*curve, points[-1]]


def _between(t: float, a: float, b: float, c: float, d: float) -> float:
    return 0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3)


# --- people ----------------------------------------------------------------------------------------------


def _face(
    s: Sketch, x: float, y: float, r: float, *, skin: str, hair: str, long_hair: bool, beard: bool = False
) -> None:
    """A head of radius `r` around (x, y), with its neck."""

    def at(dx: float, dy: float) -> Point:
        return x + dx * r, y + dy * r

    if long_hair:
        s.blob(
            [at(-1.15, -0.3), at(0, -1.35), at(1.15, -0.3), at(1.35, 1.3), at(0.6, 1.9), at(-0.6, 1.9), at(-1.35, 1.3)],
            hair,
        )
    s.box(*at(-0.36, 0.6), *at(0.36, 1.75), skin, r * 0.2)
    s.blob([at(-0.36, 0.95), at(0, 1.28), at(0.36, 0.95), at(0, 1.05)], "#0000001c")
    s.ellipse(*at(-0.92, 0.1), 0.16 * r, 0.24 * r, skin)
    s.ellipse(*at(0.92, 0.1), 0.16 * r, 0.24 * r, skin)
    s.blob([at(-0.9, -0.3), at(0, -1.12), at(0.9, -0.3), at(0.78, 0.6), at(0, 1.12), at(-0.78, 0.6)], skin)
    if beard:
        s.blob(
            [
                at(-0.84, 0.2),
                at(-0.5, 0.42),
                at(0, 0.36),
                at(0.5, 0.42),
                at(0.84, 0.2),
                at(0.72, 0.8),
                at(0, 1.24),
                at(-0.72, 0.8),
            ],
            hair,
        )
    for side in (-1, 1):
        s.ellipse(*at(0.38 * side, 0.06), 0.13 * r, 0.085 * r, "#fffdf8")
        s.ellipse(*at(0.38 * side, 0.06), 0.075 * r, 0.082 * r, "#3a2a22")
        s.line([at(0.2 * side, -0.2), at(0.4 * side, -0.27), at(0.58 * side, -0.18)], hair, 0.07 * r)
        if not beard:
            s.ellipse(*at(0.52 * side, 0.4), 0.17 * r, 0.11 * r, "#e0605038")
    s.line([at(0.02, 0.1), at(0.1, 0.38), at(-0.04, 0.42)], "#00000030", 0.05 * r)
    s.blob([at(-0.26, 0.66), at(-0.08, 0.6), at(0, 0.63), at(0.08, 0.6), at(0.26, 0.66), at(0, 0.8)], "#b5524d")
    if long_hair:
        s.blob(
            [
                at(-1.0, 0.35),
                at(-1.12, -0.45),
                at(-0.3, -1.32),
                at(0.7, -1.2),
                at(1.12, -0.4),
                at(1.0, 0.35),
                at(0.72, -0.35),
                at(0.1, -0.7),
                at(-0.55, -0.4),
            ],
            hair,
        )
    else:
        s.blob(
            [
                at(-0.98, 0.0),
                at(-1.0, -0.6),
                at(-0.4, -1.3),
                at(0.5, -1.3),
                at(1.02, -0.6),
                at(0.98, 0.0),
                at(0.74, -0.5),
                at(0.1, -0.62),
                at(-0.66, -0.5),
            ],
            hair,
        )


def model(s: Sketch) -> None:
    """A woman standing, head to toe, in plain basics."""
    skin, h = "#e3b594", s.height
    s.ellipse(50, h - 7, 20, 2.6, "#00000022")
    for side in (-1, 1):
        x = 50 + 5.2 * side
        s.blob([(x - 3.2, 72), (x + 3.2, 72), (x + 2.2, h - 10), (x + 3.2 * side, h - 7), (x - 2, h - 8)], skin)
        s.ellipse(x + 1.2 * side, h - 7.5, 3.6, 1.8, "#f4f1ec")
        s.line([(50 + 9.5 * side, 41), (50 + 13.5 * side, 56), (50 + 13 * side, 72)], skin, 4)
    s.blob([(40, 66), (60, 66), (60.5, 80), (51, 81), (50, 76), (49, 81), (39.5, 80)], "#c9c4bd")
    s.blob([(40.5, 38), (46, 35.5), (54, 35.5), (59.5, 38), (57.5, 54), (60.5, 68), (39.5, 68), (42.5, 54)], "#f6f3ee")
    _face(s, 50, 22, 8.2, skin=skin, hair="#5b3a29", long_hair=True)
    s.blob([(45.5, 35.4), (50, 39.5), (54.5, 35.4), (50, 36.2)], skin)


def beauty_model(s: Sketch) -> None:
    """A woman's portrait, bare shoulders."""
    skin = "#d9a27f"
    s.blob([(8, s.height + 4), (16, 100), (38, 90), (62, 90), (84, 100), (92, s.height + 4)], skin)
    _face(s, 50, 54, 22, skin=skin, hair="#2d211d", long_hair=True)
    s.blob([(8, s.height + 6), (14, 108), (50, 116), (86, 108), (92, s.height + 6)], "#f0d9d4")


def actor_woman(s: Sketch) -> None:
    """An actress in a red coat, close."""
    s.blob([(4, s.height + 4), (12, 94), (38, 84), (62, 84), (88, 94), (96, s.height + 4)], "#9c2f2f")
    _face(s, 50, 46, 23, skin="#f0c9a8", hair="#b5502a", long_hair=True)
    s.polygon([(38, 86), (50, 104), (46, s.height), (30, s.height)], "#832525")
    s.polygon([(62, 86), (50, 104), (54, s.height), (70, s.height)], "#832525")


def actor_man(s: Sketch) -> None:
    """An actor with a beard in a dark jacket, close."""
    s.blob([(2, s.height + 4), (10, 92), (36, 84), (64, 84), (90, 92), (98, s.height + 4)], "#2d3b45")
    _face(s, 50, 46, 23, skin="#b98560", hair="#231c19", long_hair=False, beard=True)
    s.polygon([(36, 86), (50, 100), (64, 86), (58, s.height), (42, s.height)], "#d8d2c4")
    s.polygon([(36, 85), (50, 101), (44, s.height), (24, s.height)], "#24303a")
    s.polygon([(64, 85), (50, 101), (56, s.height), (76, s.height)], "#24303a")


# --- garments --------------------------------------------------------------------------------------------


def top(s: Sketch) -> None:
    """A striped knit sweater."""
    for side in (-1, 1):

        def at(dx: float, y: float, side: int = side) -> Point:
            return 50 + dx * side, y

        s.blob([at(24, 26), at(34, 36), at(41, 72), at(32, 75), at(25, 52)], "#d6644b")
        s.line([at(41, 71), at(32.5, 74)], "#b34d38", 3.2)
    s.blob(s.mirrored([(38, 21), (25, 26), (27, 55), (26, 84), (38, 86)]), "#e0735a")
    for y in (40, 51, 62, 73):
        s.line([(28, y), (50, y + 1), (72, y)], "#f7e3d3", 3.4)
    s.line([(28, 85), (50, 87), (72, 85)], "#b34d38", 4)
    s.ellipse(50, 21.5, 12.4, 5, "#b34d38")
    s.ellipse(50, 20.6, 9.6, 3.4, "#7c3022")


def pants(s: Sketch) -> None:
    """Blue jeans."""
    h = s.height - 10
    s.polygon([(32, 14), (68, 14), (74, h), (54, h), (50, 48), (46, h), (26, h)], "#3f67a3")
    s.polygon([(26.2, h - 6), (46, h - 6), (46, h), (26, h)], "#6f93c8")
    s.polygon([(53.9, h - 6), (73.8, h - 6), (74, h), (54, h)], "#6f93c8")
    s.box(31.5, 11, 68.5, 18, "#34568b", 1)
    s.line([(50, 18), (50, 44)], "#2c4974", 0.8, smooth=False)
    s.ellipse(50, 14.5, 1.5, 1.5, "#e2b65c")
    for side in (-1, 1):
        s.line([(50 + 17 * side, 20), (50 + 11 * side, 27), (50 + 9 * side, 19)], "#e2b65c", 0.5)
        s.line([(50 + 11.5 * side, 34), (50 + 13 * side, h - 8)], "#86a7d680", 3, smooth=False)
        s.box(50 + 9 * side - 0.7, 10, 50 + 9 * side + 0.7, 19, "#2c4974")


def outer(s: Sketch) -> None:
    """A trench coat with a belt."""
    h = s.height - 8
    for side in (-1, 1):

        def at(dx: float, y: float, side: int = side) -> Point:
            return 50 + dx * side, y

        s.blob([at(20, 24), at(29, 32), at(36, 78), at(27, 80), at(21, 52)], "#b98f5d")
        s.line([at(35, 74), at(27.5, 75.5)], "#8a6539", 2)
    s.blob(s.mirrored([(40, 20), (27, 25), (31, 58), (23, h), (46, h)]), "#cba36f")
    s.line([(50, 40), (50, h)], "#8a6539", 0.8, smooth=False)
    s.polygon([(40, 20), (50, 42), (38, 50), (30, 26)], "#bd9460")
    s.polygon([(60, 20), (50, 42), (62, 50), (70, 26)], "#bd9460")
    s.polygon([(41, 19), (59, 19), (50, 41)], "#f2ede4")
    s.box(29.5, 60, 70.5, 66, "#8a6539", 1)
    s.box(46, 59, 54, 67, "#e9d7b5", 1)
    s.box(47.6, 60.8, 52.4, 65.2, "#8a6539")
    for x in (43, 57):
        for y in (54, 74, 86):
            s.ellipse(x, y, 1.4, 1.4, "#6b4c28")


def shoes(s: Sketch) -> None:
    """A pair of sneakers."""
    for dx, dy, body in ((8, -13, "#e7ecef"), (-4, 6, "#fbfcfd")):

        def at(x: float, y: float, dx: float = dx, dy: float = dy) -> Point:
            return x + dx, y + dy

        s.ellipse(*at(48, 67), 36, 3, "#00000020")
        s.blob([at(17, 44), at(28, 40), at(36, 46), at(56, 52), at(78, 56), at(82, 64), at(50, 66), at(15, 65)], body)
        s.blob([at(15, 63), at(50, 64), at(83, 62), at(82, 68), at(50, 69), at(16, 69)], "#d9dfe3")
        s.blob([at(16, 46), at(25, 47), at(25, 63), at(15, 63)], "#2f9c86")
        s.blob([at(40, 58), at(52, 52), at(58, 54), at(48, 63)], "#2f9c86")
        for i in range(4):
            s.line([at(33 + 5 * i, 47 + 1.5 * i), at(38 + 5 * i, 44.5 + 1.6 * i)], "#7a8790", 0.9)


def bag(s: Sketch) -> None:
    """A leather handbag."""
    s.ellipse(50, 82, 34, 3, "#00000024")
    s.arc(50, 42, 17, 24, 180, 360, "#5f2440", 3)
    s.blob([(22, 42), (50, 40), (78, 42), (84, 78), (50, 81), (16, 78)], "#8e3560")
    s.blob([(21, 42), (50, 40), (79, 42), (76, 58), (50, 64), (24, 58)], "#a8487a")
    s.line([(24, 58.4), (50, 64.2), (76, 58.4)], "#5f2440", 0.7)
    s.box(45.5, 58, 54.5, 67, "#e8c46a", 1.4)
    s.ellipse(50, 62.4, 1.6, 1.6, "#8a6a22")


# --- products --------------------------------------------------------------------------------------------


def lipstick(s: Sketch) -> None:
    """An open lipstick."""
    s.ellipse(50, 101, 22, 3, "#00000024")
    s.box(36, 64, 64, 101, "#1f1c22", 2)
    s.box(36, 64, 43, 101, "#ffffff1c", 2)
    s.box(39, 48, 61, 65, "#d9b36b", 1)
    s.box(41, 48, 44, 65, "#fff3d0a0")
    s.polygon([(41.5, 49), (41.5, 30), (58.5, 20), (58.5, 49)], "#c4243f")
    s.blob([(41.5, 30), (47, 22), (58.5, 19), (57, 26), (49, 31)], "#de4a5f")
    s.box(43.5, 33, 45.5, 47, "#ffffff50", 1)


def cream(s: Sketch) -> None:
    """A jar of cream with its lid off."""
    s.ellipse(50, 82, 36, 4, "#00000020")
    s.box(18, 46, 82, 82, "#cfe5df", 7)
    s.box(18, 46, 30, 82, "#ffffff50", 7)
    s.ellipse(50, 46, 32, 8, "#a9cfc6")
    s.ellipse(50, 45, 28, 6.4, "#fffaf2")
    s.blob([(34, 45), (44, 36), (56, 38), (66, 45), (50, 49)], "#ffffff")
    s.line([(42, 43), (50, 38.5), (55, 42)], "#e6ded2", 1)
    s.box(33, 57, 67, 73, "#f7fbfa", 2)
    s.line([(39, 63), (61, 63)], "#5f9387", 1.6, smooth=False)
    s.line([(44, 68), (56, 68)], "#9cc0b8", 1, smooth=False)


def serum(s: Sketch) -> None:
    """A dropper bottle."""
    s.ellipse(50, 107, 22, 3, "#00000024")
    s.box(46, 14, 54, 30, "#2b2724", 4)
    s.box(41, 29, 59, 44, "#d8b978", 1.5)
    s.box(33, 44, 67, 107, "#b5672c", 7)
    s.box(36, 48, 42, 103, "#ffffff40", 3)
    s.box(38, 62, 62, 92, "#fbf4e8", 1.5)
    s.line([(43, 71), (57, 71)], "#7a4218", 1.6, smooth=False)
    s.ellipse(50, 81, 4, 4, "#e2ab5e")


# --- food ------------------------------------------------------------------------------------------------


def dish(s: Sketch) -> None:
    """A bowl of noodles with egg."""
    rng = random.Random(7)  # noqa: S311  a drawing
    s.ellipse(51, 54, 41, 34, "#00000028")
    s.ellipse(50, 50, 41, 36, "#27425c")
    s.ellipse(50, 49, 37, 32, "#f3eee2")
    s.ellipse(50, 49, 33, 28, "#c77b34")
    for _ in range(26):
        x, y = rng.uniform(30, 62), rng.uniform(40, 66)
        s.line([(x - 9, y), (x - 3, y - 4), (x + 3, y + 3), (x + 9, y - 1)], "#f3d58d", 1.5)
    for x, y in ((62, 36), (72, 45)):
        s.ellipse(x, y, 8, 6.4, "#fffdf6")
        s.ellipse(x, y, 4.4, 3.6, "#f29a2e")
    s.blob([(26, 36), (38, 28), (48, 32), (40, 44), (30, 46)], "#8a4a35")
    s.line([(29, 41), (40, 33), (46, 33)], "#d9a08a", 1.6)
    for _ in range(18):
        s.ellipse(rng.uniform(40, 70), rng.uniform(54, 70), 1.5, 1.1, "#5c9b3c")
    s.line([(80, 14), (60, 60)], "#6b3b22", 1.6, smooth=False)
    s.line([(87, 17), (64, 61)], "#6b3b22", 1.6, smooth=False)


def ingredient(s: Sketch) -> None:
    """Tomatoes on the vine."""
    s.line([(14, 34), (40, 28), (64, 32), (88, 24)], "#4f7a35", 2.4)
    for x, y, r in ((28, 50, 16), (56, 54, 18), (80, 44, 13)):
        s.line([(x, y - r), (x + 2, y - r - 8)], "#4f7a35", 1.8)
        s.ellipse(x + 1.5, y + 2.5, r, r * 0.95, "#00000020")
        s.ellipse(x, y, r, r * 0.94, "#d8362a")
        s.ellipse(x - r * 0.35, y - r * 0.32, r * 0.28, r * 0.2, "#ffffff60")
        for angle in range(0, 360, 72):
            a = math.radians(angle)
            tip = (x + math.cos(a) * r * 0.5, y - r * 0.72 + math.sin(a) * r * 0.28)
            s.line([(x, y - r * 0.75), tip], "#3f7a2e", 1.6)


def garnish(s: Sketch) -> None:
    """Basil leaves and a lemon slice."""
    s.ellipse(62, 58, 24, 24, "#f4d13d")
    s.ellipse(62, 58, 21, 21, "#fff4c2")
    for angle in range(0, 360, 45):
        a, b = math.radians(angle + 6), math.radians(angle + 39)
        rim = [(62 + 19 * math.cos(t), 58 + 19 * math.sin(t)) for t in (a, b)]
        s.polygon([(62 + 2 * math.cos((a + b) / 2), 58 + 2 * math.sin((a + b) / 2)), *rim], "#f9de5f")
    for points in (
        [(12, 50), (24, 26), (46, 24), (42, 46), (26, 58)],
        [(28, 76), (26, 56), (44, 44), (54, 58), (46, 76)],
    ):
        s.blob(points, "#3e8c3f")
        s.line([points[0], points[2]], "#a8d79a", 0.8)


# --- props and characters --------------------------------------------------------------------------------


def lantern(s: Sketch) -> None:
    """A brass lantern, lit."""
    s.ellipse(50, 62, 46, 46, "#ffcf6b22")
    s.ellipse(50, 62, 34, 34, "#ffcf6b30")
    s.arc(50, 30, 12, 16, 180, 360, "#4a3418", 1.8)
    s.polygon([(34, 40), (50, 26), (66, 40)], "#8a6328")
    s.box(35, 40, 65, 84, "#ffe6a3", 2)
    s.blob([(50, 50), (56, 64), (50, 74), (44, 64)], "#ff9d2e")
    s.blob([(50, 58), (53, 66), (50, 72), (47, 66)], "#fff7d1")
    for x in (35, 45, 55, 65):
        s.box(x - 0.9, 40, x + 0.9, 84, "#6b4a1c")
    s.box(30, 38, 70, 43, "#8a6328", 1)
    s.box(30, 83, 70, 92, "#8a6328", 2)


def fox(s: Sketch) -> None:
    """A cartoon fox with a scarf."""
    ink = "#3a2118"
    s.blob([(66, 96), (88, 84), (92, 62), (80, 66), (70, 82)], "#e8792b")
    s.blob([(90, 66), (94, 56), (86, 58), (80, 66)], "#fff4e6")
    s.blob([(36, 72), (64, 72), (70, 104), (50, 110), (30, 104)], "#e8792b")
    s.blob([(42, 80), (58, 80), (59, 104), (41, 104)], "#fff4e6")
    for side in (-1, 1):

        def at(dx: float, y: float, side: int = side) -> Point:
            return 50 + dx * side, y

        s.polygon([at(10, 28), at(30, 8), at(32, 40)], "#e8792b")
        s.polygon([at(17, 26), at(28, 15), at(28, 34)], ink)
        s.ellipse(*at(9, 107), 7, 4, ink)
    s.blob([(18, 48), (32, 26), (50, 23), (68, 26), (82, 48), (50, 72)], "#e8792b")
    s.blob([(20, 49), (36, 46), (50, 58), (64, 46), (80, 49), (50, 73)], "#fff4e6")
    for side in (-1, 1):
        s.ellipse(50 + 15 * side, 43, 4.4, 5.6, ink)
        s.ellipse(50 + 15 * side + 1.4, 41, 1.5, 1.8, "#ffffff")
    s.ellipse(50, 66, 4.4, 3.2, ink)
    s.blob([(32, 72), (50, 78), (68, 72), (67, 80), (50, 86), (33, 80)], "#2a7fb8")
    s.polygon([(58, 80), (68, 79), (72, 100), (62, 100)], "#2a7fb8")


def robot(s: Sketch) -> None:
    """A round cartoon robot."""
    s.line([(50, 20), (50, 8)], "#5c6b78", 2)
    s.ellipse(50, 8, 4, 4, "#ff5a5a")
    for side in (-1, 1):
        s.line([(50 + 26 * side, 70), (50 + 38 * side, 80), (50 + 34 * side, 92)], "#8fa0ad", 5)
        s.ellipse(50 + 34 * side, 93, 5.5, 5.5, "#5c6b78")
        s.box(50 + 11 * side - 5, 100, 50 + 11 * side + 5, 116, "#8fa0ad", 2)
        s.box(50 + 12 * side - 8, 112, 50 + 12 * side + 8, 119, "#5c6b78", 3)
    s.box(24, 62, 76, 104, "#62c4c3", 12)
    s.box(34, 72, 66, 92, "#e9fbfa", 4)
    for i, colour in enumerate(("#ff5a5a", "#ffc94d", "#5ad27a")):
        s.ellipse(41 + 9 * i, 82, 3, 3, colour)
    s.box(20, 20, 80, 62, "#7fd6d5", 16)
    s.box(27, 28, 73, 54, "#17313a", 11)
    for side in (-1, 1):
        s.ellipse(50 + 11 * side, 40, 5, 6.5, "#8ff7ff")
        s.ellipse(50 + 11 * side + 1.5, 38, 1.6, 2, "#ffffff")
    s.arc(50, 44, 6, 5, 20, 160, "#8ff7ff", 1.2)


def umbrella(s: Sketch) -> None:
    """A polka-dot umbrella."""
    s.line([(50, 20), (50, 88)], "#7b5132", 2, smooth=False)
    s.arc(56, 86, 6, 8, 0, 180, "#7b5132", 2)
    s.blob([(10, 52), (22, 26), (50, 14), (78, 26), (90, 52), (70, 49), (50, 52), (30, 49)], "#e2467c")
    s.blob([(36, 50), (42, 28), (50, 14), (58, 28), (64, 50), (50, 52)], "#f06a98")
    for x, y in ((24, 40), (34, 27), (50, 24), (50, 42), (68, 30), (76, 42)):
        s.ellipse(x, y, 2.8, 2.8, "#fff3f7")


# --- places ----------------------------------------------------------------------------------------------


def street(s: Sketch) -> None:
    """A sunny European street."""
    h = s.height
    rng = random.Random(3)  # noqa: S311  a drawing
    s.ellipse(78, 12, 6, 6, "#fff2c0")
    x = 0.0
    for i, colour in enumerate(("#d9a58a", "#efd9b4", "#c77f66", "#e8c6a4", "#b9c4b0", "#dfae86", "#eedcc2")):
        width, roof = 13 + 4 * rng.random(), 10 + 10 * rng.random()
        s.box(x, roof, x + width, h * 0.72, colour)
        s.polygon([(x - 0.6, roof), (x + width / 2, roof - 4), (x + width + 0.6, roof)], "#8c4a38")
        for row in range(3):
            for column in range(2):
                left, up = x + 2.2 + column * (width - 2) / 2, roof + 3 + row * 9
                s.box(left, up, left + 3.4, up + 5.4, "#5b7386" if (row + column + i) % 3 else "#f8dc8e", 0.4)
        x += width
    s.polygon([(0, h * 0.72), (100, h * 0.72), (100, h), (0, h)], "#b9b1a6")
    s.polygon([(30, h), (47, h * 0.72), (53, h * 0.72), (70, h)], "#a39a8e")
    for tree in (12, 88):
        s.box(tree - 0.7, h * 0.5, tree + 0.7, h * 0.78, "#6a4a33")
        s.ellipse(tree, h * 0.45, 7, 8, "#6f9a5a")


def marble(s: Sketch) -> None:
    """A marble vanity top before a blush wall."""
    h = s.height
    s.ellipse(50, h * 0.36, 21, 21, "#f9ebe6")
    s.ellipse(50, h * 0.36, 18, 18, "#e6d2cd")
    s.polygon([(0, h * 0.66), (100, h * 0.66), (100, h), (0, h)], "#f6f4f2")
    for y, sway in ((0.72, 3), (0.8, -4), (0.9, 5), (0.96, -2)):
        s.line([(0, h * y), (25, h * y + sway), (60, h * y - sway), (100, h * y + sway)], "#c9c3c0", 0.5)
    s.box(8, h * 0.4, 16, h * 0.68, "#cfb9a8", 3)
    for tip in ((4, h * 0.12), (12, h * 0.06), (20, h * 0.14)):
        s.line([(12, h * 0.42), tip], "#7d9a7a", 1)
        s.ellipse(*tip, 3, 5, "#8fb08b")


def table(s: Sketch) -> None:
    """A wooden table from above."""
    h = s.height
    for i, colour in enumerate(("#a9744a", "#b58055", "#9d6a42", "#ad7950", "#a06c45")):
        y = h * i / 5
        s.box(0, y, 100, y + h / 5 - 0.4, colour)
        for k in range(3):
            at = y + h / 5 * (0.25 + 0.25 * k)
            s.line([(0, at), (30 + 9 * k, at + 0.8), (70, at - 0.8), (100, at)], "#8a5a3560", 0.3)
    s.polygon([(62, h), (70, h * 0.66), (100, h * 0.58), (100, h)], "#eee6d8")
    for k in range(5):
        s.line([(64 + 7 * k, h), (72 + 6 * k, h * 0.66 - k * 0.9)], "#c65d4a80", 0.5, smooth=False)


def harbour(s: Sketch) -> None:
    """A harbour at night."""
    h = s.height
    rng = random.Random(11)  # noqa: S311  a drawing
    for _ in range(40):
        s.ellipse(rng.uniform(0, 100), rng.uniform(0, h * 0.4), 0.22, 0.22, "#ffffffb0")
    s.ellipse(74, h * 0.2, 5.5, 5.5, "#f4eccb")
    for i in range(12):
        left, roof = i * 8.6 - 1, h * (0.36 + 0.12 * rng.random())
        s.box(left, roof, left + 8.8, h * 0.62, "#101d2a")
        for _ in range(4):
            wx, wy = left + rng.uniform(1, 7), rng.uniform(roof + 1, h * 0.6)
            s.box(wx, wy, wx + 0.9, wy + 1.2, "#ffc861")
    s.box(0, h * 0.62, 100, h, "#0c2633")
    for _ in range(34):
        x, y = rng.uniform(0, 96), rng.uniform(h * 0.64, h)
        s.line([(x, y), (x + rng.uniform(2, 6), y)], "#f2c46655", 0.35, smooth=False)
    s.polygon([(14, h * 0.72), (44, h * 0.72), (39, h * 0.8), (19, h * 0.8)], "#05090d")
    s.line([(29, h * 0.72), (29, h * 0.44)], "#05090d", 0.7, smooth=False)
    s.polygon([(30, h * 0.46), (30, h * 0.69), (41, h * 0.69)], "#1c3342")


def meadow(s: Sketch) -> None:
    """Rolling hills under clouds."""
    h = s.height
    s.ellipse(20, h * 0.22, 7, 7, "#ffe27a")
    for x, y in ((48, h * 0.2), (80, h * 0.3)):
        for dx, r in ((-6, 4), (0, 5.6), (6, 4.4)):
            s.ellipse(x + dx, y, r * 1.2, r, "#ffffff")
    for base, colour, sway in ((0.56, "#9fd37a", 5), (0.68, "#7fc260", -5), (0.82, "#62ab4c", 4)):
        s.blob(
            [
                (-10, h * base),
                (25, h * base - sway),
                (60, h * base + sway),
                (110, h * base),
                (110, h + 12),
                (-10, h + 12),
            ],
            colour,
        )
    for x, y, colour in ((12, 0.86, "#ff7d9d"), (30, 0.93, "#ffffff"), (58, 0.9, "#ffd24d"), (82, 0.94, "#ff7d9d")):
        s.ellipse(x, h * y, 1.4, 1.4, colour)


#: what can be drawn: the subject's drawing, its width and height in pixels, and the colours of its ground
SUBJECTS: Mapping[str, tuple[Callable[[Sketch], None], tuple[int, int], tuple[str, str]]] = {
    "model": (model, (768, 1152), ("#efe9e1", "#d9cfc2")),
    "top": (top, (900, 900), ("#f7f2ec", "#e9dfd3")),
    "pants": (pants, (768, 1024), ("#f4f5f7", "#dfe4ea")),
    "outer": (outer, (768, 1024), ("#f6f1ea", "#e6dacb")),
    "shoes": (shoes, (1024, 820), ("#cfe3df", "#b3cfc9")),
    "bag": (bag, (900, 900), ("#f8ecef", "#ecd5dc")),
    "street": (street, (1200, 800), ("#bfe0f2", "#f4efe2")),
    "beauty_model": (beauty_model, (800, 1000), ("#f6e6e2", "#e6c9c2")),
    "lipstick": (lipstick, (768, 900), ("#fbeff0", "#eccfd4")),
    "cream": (cream, (900, 900), ("#eef7f4", "#d5e8e2")),
    "serum": (serum, (768, 960), ("#faf1e4", "#ecdcc4")),
    "marble": (marble, (1200, 800), ("#f3dcd6", "#ecccc5")),
    "dish": (dish, (1000, 1000), ("#d9c7ad", "#c4ab8a")),
    "ingredient": (ingredient, (900, 768), ("#f4f1e6", "#e2dcc6")),
    "garnish": (garnish, (800, 800), ("#f3f6ec", "#dde6cf")),
    "table": (table, (1200, 900), ("#a9744a", "#a06c45")),
    "actor_woman": (actor_woman, (768, 960), ("#5d6b74", "#333f47")),
    "actor_man": (actor_man, (768, 960), ("#7c6a58", "#43382e")),
    "lantern": (lantern, (800, 960), ("#1d2430", "#3b3442")),
    "harbour": (harbour, (1200, 675), ("#0a1626", "#27506a")),
    "fox": (fox, (800, 940), ("#dff1fb", "#bfe0f3")),
    "robot": (robot, (800, 980), ("#fdf3d8", "#f6dfa4")),
    "umbrella": (umbrella, (800, 800), ("#fdf0f4", "#f6d9e3")),
    "meadow": (meadow, (1200, 800), ("#8fd0f5", "#dff3fb")),
}


def illustrate(subject: str) -> Image.Image:
    """The illustration of one of `SUBJECTS`, RGB."""
    draw, (width, height), (top_colour, bottom_colour) = SUBJECTS[subject]
    sketch = Sketch(width, height, top_colour, bottom_colour)
    draw(sketch)
    return sketch.picture()
