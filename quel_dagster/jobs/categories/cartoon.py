"""Cartoon: drawn characters, with the effects of comics and animation (domain.md §5, §6)."""

from functools import partial

from quel_dagster.jobs.categories.category import Camera, CategoryStyle, Layout, Role, Scene, background
from quel_dagster.jobs.model import Category

# --- reference images --------------------------------------------------------------------------------

CHARACTER = """
    Stay on model: proportions of head and body, face shape, eyes, hair shape and colour, skin or fur
    colour, costume, markings and accessories exactly as designed, and the line and shading style it is
    drawn in. Pose, expression and viewpoint follow the brief. The light of the scene falls on it; the
    flat light of the design sheet stays behind.
"""

PROP = """
    Keep its design, colours and size next to the characters, drawn in the same style as they are.
"""

PROPS = """
    The {count} props share one sheet only to save space: every tile is a thing of its own, and all of
    them are used. Keep design, colours and size of each next to the characters, drawn in the same style
    as they are. The sheet, its tiles and its margins are never seen.
"""

PLACE = """
    Take over the kind of place, its architecture or landscape, its palette, its hour and its mood, and
    draw it anew in the characters' style from this camera's position. Reinterpret it, do not paste it in;
    its light colours everything in the drawing.
"""

# --- camera -------------------------------------------------------------------------------------------

CAMERA = Camera(
    angles={
        "front": "from the front at eye level, the face fully seen.",
        "three-quarter": """
            a three-quarter view, turned by about forty-five degrees: front and side planes both read.
        """,
        "side": "from the side, a clear silhouette in profile.",
        "low-angle": "from below, looking up with strong perspective: large, heroic, near things huge.",
        "high-angle": "from above, looking down: heads larger than feet, the ground as a stage.",
    },
    shots={
        "portrait": "portrait. Head and shoulders fill the frame; the expression is the subject.",
        "bust": "bust. From the chest up, hands may enter to help the acting.",
        "full-body": """
            full body. From the top of the head to the soles, nothing cut off, a clear line of action.
        """,
    },
)

# --- effects ------------------------------------------------------------------------------------------

EFFECTS = {
    "speed-lines": """
        Speed lines: tapering strokes along the direction of movement, dense at the edges and open around
        the subject, which stays crisp.
    """,
    "impact": """
        Impact: a burst of jagged flashes and radiating lines from the point of contact, flying debris
        that follows the blow, a moment of highest contrast. No lettering.
    """,
    "aura": """
        Aura: a glow of energy around the body that follows its outline, brightest at the edge, rising in
        wisps, and lighting the character and the ground close by.
    """,
    "emotion": """
        Emotion: the feeling of the brief pushed with drawn signs (sweat drop, blush, sparkle, gloom
        lines, pulsing vein) and a background that swings with it. Few signs, well placed. No lettering.
    """,
}

# --- rules --------------------------------------------------------------------------------------------

RULES = """
    - One drawing in one consistent style: line weight, shading, palette and finish are the same
    everywhere.
    - Scene light on everything: one direction, its colour in lights and shadows, cast shadows on the
    ground.
    - Construction holds: heads, hands and limbs have volume, joints bend where they should, hands have
    the number of fingers of the design.
    - Figures stand on the ground or are carried by a movement that the drawing makes plain.
"""

AVOID = """
    - One character more or one fewer than said above; twins, doubles, bystanders, crowds.
    - Designs that drift: other hair, eyes, costume or colours; features of one character on another.
    - A photograph or 3D render where the references are drawn; comic panels, speech bubbles, sound words,
    design sheets, turnarounds.
"""

OPEN_AVOID = """
    - Characters the brief does not call for, twins, doubles.
    - Comic panels, speech bubbles, sound words, design sheets, turnarounds.
"""

PLACE_OF_THE_BRIEF = (
    "If the brief names no place: a simple painted background whose shapes and tones lead to the subject."
)

CHARACTERS = frozenset({"character"})

illustration = partial(Scene, setting=PLACE_OF_THE_BRIEF, rules=RULES, avoid=AVOID, camera=CAMERA)

STYLE = CategoryStyle(
    category=Category.CARTOON,
    roles=(
        Role(
            name="character",
            identity=True,
            types=frozenset({"character", "face", "model"}),
            layout=Layout.EACH,
            limit=3,
            one=CHARACTER,
        ),
        Role(
            name="prop",
            types=frozenset({"prop", "acce", "accessory", "none"}),
            layout=Layout.GRID,
            takes_unknown=True,
            one=PROP,
            several=PROPS,
        ),
        background(PLACE),
    ),
    scenes=(
        illustration(
            name="one character",
            needs=CHARACTERS,
            counts=CHARACTERS,
            exactly=1,
            opening="""
                A finished cartoon illustration, like a key frame of an animated film, with exactly one
                character: the one of the reference image, and nobody else.
            """,
        ),
        illustration(
            name="several characters",
            needs=CHARACTERS,
            counts=CHARACTERS,
            opening="""
                A finished cartoon illustration, like a key frame of an animated film, with exactly
                {count} characters: those of the reference images, each of them once, all of them wholly
                themselves, and nobody else.
            """,
        ),
        illustration(
            name="no character",
            opening="""
                A finished cartoon illustration, like a key frame of an animated film. The brief says who
                or what is in it; no character appears whom it does not call for.
            """,
            avoid=OPEN_AVOID,
        ),
    ),
    angle_aliases={"profile": "side", "3-4": "three-quarter", "quarter": "three-quarter"},
    shot_aliases={"tight": "portrait", "close-up": "portrait", "middle": "bust", "full": "full-body"},
    effects=EFFECTS,
    merged_type="prop",
    portrait_type="character",
    mixes={
        "one character": ("character",),
        "three characters, props and background": ("character", "character", "character", "prop", "prop", "background"),
        "two characters": ("character", "character"),
        "prop and background": ("prop", "background"),
        "no references": (),
    },
    sample_prompt="They find the map at last, and the cave begins to shake.",
)
