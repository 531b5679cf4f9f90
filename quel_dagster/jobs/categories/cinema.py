"""Cinema: a still from a film, with the camera in the user's own words (domain.md §5, §6)."""

from functools import partial

from quel_dagster.jobs.categories.category import Camera, CategoryStyle, Layout, Role, Scene, background
from quel_dagster.jobs.model import Category

# --- reference images --------------------------------------------------------------------------------

ACTOR = """
    The still shows this very person, recognisable at first glance: face shape, eyes, nose, mouth, skin
    tone and marks, hair, age and build. Expression, pose and viewpoint belong to the scene; wardrobe too,
    where other images or the brief supply it, otherwise it stays.
"""

COSTUME = """
    A costume piece. Keep its cut, fabric, colour, pattern and wear; it is worn in the scene by whoever
    the brief gives it to, and lit with the scene.
"""

COSTUMES = """
    The {count} costume pieces share one sheet only to save space: every tile is a piece of its own, and
    all of them are used. Keep cut, fabric, colour, pattern and wear of each; they are worn in the scene
    by whoever the brief gives them to, and lit with the scene. The sheet, its tiles and its margins are
    never seen.
"""

PROP = """
    Keep its shape, material, colour, markings and true size; it is held, worn, used or stands where the
    story needs it.
"""

PROPS = """
    The {count} props share one sheet only to save space: every tile is a thing of its own, and all of
    them are used. Keep shape, material, colour, markings and true size of each; they are held, worn, used
    or stand where the story needs them. The sheet, its tiles and its margins are never seen.
"""

LOCATION = """
    Read this location: its architecture or landscape, its hour, its weather and where its light comes
    from, and stage the scene in it from this camera's position. Reinterpret it, do not paste it in as a
    backdrop; actors and place share one light and one air.
"""

# --- camera: the words in front of each text are the user's own ---------------------------------------

CAMERA = Camera(
    angles={
        "eye-level": "the lens at the height of the eyes, on equal terms with the scene.",
        "low-angle": "the lens well below the eyes, looking up; what is shown gains height and power.",
        "high-angle": """
            the lens well above the eyes, looking down; what is shown seems smaller, watched or alone.
        """,
        "birds-eye": "straight down from high above; the place becomes a pattern and people small marks in it.",
        "worms-eye": "from the ground straight up; verticals rush together overhead.",
        "dutch-angle": "the camera rolled by ten to twenty degrees, the horizon aslant, unrest in the frame.",
        "over-the-shoulder": """
            past the soft shoulder and head of one figure to the face or thing that figure looks at. With
            a single actor the shoulder belongs to the person being looked at or spoken to, or the look
            goes past the actor's own.
        """,
        "pov": "what one figure of the story sees, from that figure's eyes; that figure is not in the frame.",
        "profile": "from the side, the face or body in clean profile, looking across the frame into space.",
        "from-behind": "from behind; the face is not seen, and the eye goes where the figure looks.",
    },
    shots={
        "extreme-close-up": "one detail fills the frame: eyes, mouth, a hand, a thing.",
        "close-up": "the face fills the frame from the hair to below the chin; the background is soft.",
        "medium-close-up": "from the chest up, face and a hint of posture.",
        "medium-shot": "from the waist up, room for gesture.",
        "cowboy-shot": "from mid-thigh up, body language and surroundings in balance.",
        "full-shot": "the whole figure from head to toe, with some ground below and air above.",
        "wide-shot": "figures and place together, the figures a third of the frame's height or less.",
        "extreme-wide-shot": "the place rules the frame; figures are small in it, but found at once.",
    },
)

# --- rules --------------------------------------------------------------------------------------------

RULES = """
    - One unified film still: everything was in front of one lens at one moment, under one light, with one
    grade.
    - Composition for the screen: depth in layers, a clear place for the eye, lines that lead to it.
    - Light has a source that the scene explains: window, sun, lamp, fire, sign. Shadows, colour and haze
    follow it on actors, costumes, props and place alike.
    - Bodies have natural anatomy and weight, stand or sit on something, and act rather than pose for the
    camera.
    - Cinema lens and film texture: natural grain, real depth of field, no plastic smoothness.
"""

AVOID = """
    - Doubles of an actor, strangers' faces on the actors, people whom neither a reference image nor the
    brief brings in.
    - Actors cut out and laid over a location; two lights that contradict each other.
    - Film-strip edges, letterbox bars, subtitles, titles, a clapperboard, film crew or equipment.
"""

ONE_ACTOR = """
    A still from a feature film with one actor. It is one frame out of a running scene: something has just
    happened or is about to.
"""

SEVERAL_ACTORS = """
    A still from a feature film with exactly {count} actors, together in one scene and under one light,
    each of them once and each with their own face. It is one frame out of a running scene: something has
    just happened or is about to.
"""

NO_ACTOR = """
    A still from a feature film. The brief says who is in it; nobody appears whom it does not call for. It
    is one frame out of a running scene, even when it shows only a place or a thing.
"""

SET = "If the brief names no place: choose the one in which this moment would happen, and dress it with care."

ACTORS = frozenset({"actor"})

film_still = partial(Scene, setting=SET, rules=RULES, avoid=AVOID, camera=CAMERA)

STYLE = CategoryStyle(
    category=Category.CINEMA,
    roles=(
        Role(
            name="actor",
            identity=True,
            types=frozenset({"actor", "face", "model", "character"}),
            layout=Layout.EACH,
            limit=3,
            one=ACTOR,
        ),
        Role(
            name="clothing",
            types=frozenset({"top", "pants", "outer"}),
            layout=Layout.GRID,
            one=COSTUME,
            several=COSTUMES,
        ),
        Role(
            name="prop",
            types=frozenset({"prop", "shoes", "bag", "accessory", "acce", "none"}),
            layout=Layout.GRID,
            takes_unknown=True,
            one=PROP,
            several=PROPS,
        ),
        background(LOCATION),
    ),
    scenes=(
        film_still(
            name="one actor",
            needs=ACTORS,
            counts=ACTORS,
            exactly=1,
            opening=ONE_ACTOR,
        ),
        film_still(
            name="several actors",
            needs=ACTORS,
            counts=ACTORS,
            opening=SEVERAL_ACTORS,
        ),
        film_still(
            name="no actor",
            opening=NO_ACTOR,
        ),
    ),
    angle_aliases={
        "front": "eye-level",
        "eye-level-shot": "eye-level",
        "low-angle-shot": "low-angle",
        "high-angle-shot": "high-angle",
        "birds-eye-view": "birds-eye",
        "overhead": "birds-eye",
        "top-down": "birds-eye",
        "worms-eye-view": "worms-eye",
        "dutch": "dutch-angle",
        "dutch-tilt": "dutch-angle",
        "canted-angle": "dutch-angle",
        "ots": "over-the-shoulder",
        "over-the-shoulder-shot": "over-the-shoulder",
        "point-of-view": "pov",
        "side": "profile",
        "back": "from-behind",
    },
    shot_aliases={
        "ecu": "extreme-close-up",
        "cu": "close-up",
        "tight": "close-up",
        "mcu": "medium-close-up",
        "ms": "medium-shot",
        "medium": "medium-shot",
        "mls": "cowboy-shot",
        "medium-long-shot": "cowboy-shot",
        "middle": "cowboy-shot",
        "fs": "full-shot",
        "full": "full-shot",
        "ws": "wide-shot",
        "ls": "wide-shot",
        "long-shot": "wide-shot",
        "els": "extreme-wide-shot",
        "ews": "extreme-wide-shot",
        "extreme-long-shot": "extreme-wide-shot",
        "establishing-shot": "extreme-wide-shot",
    },
    free_camera=True,
    merged_type="top",
    portrait_type="actor",
    mixes={
        "one actor": ("actor",),
        "one actor, costume, prop and location": ("actor", "top", "pants", "bag", "background"),
        "three actors and location": ("actor", "actor", "actor", "background"),
        "props and location": ("prop", "prop", "background"),
        "no references": (),
    },
    sample_prompt="Rain on the window; she reads the letter a second time.",
)
