"""Fashion: a person in given garments, or the garments and accessories alone (domain.md §5, §6)."""

from functools import partial

from quel_dagster.jobs.categories.category import Camera, CategoryStyle, Layout, Role, Scene, ShotFilter, background
from quel_dagster.jobs.model import Category

# --- reference images --------------------------------------------------------------------------------

PLACE = """
    Read this place as a location scout does: what kind of place it is, its materials and colours, where
    its light comes from, its hour and its mood. Then photograph that place afresh from where this camera
    stands. Reinterpret it: do not copy its composition, do not paste it in as a backdrop, and leave out
    people who happen to be in it. Its light falls on everything in the picture.
"""

PERSON = """
    The picture shows this very person, recognisable at first glance: bone structure and face shape, eyes,
    brows, nose, mouth, skin tone and marks, hairline, hair colour and hairstyle, age, height and build
    all stay. Expression, pose and viewpoint follow the brief and the camera. Garments of the other images
    replace what the person wears here; whatever they do not replace stays as it is here, unless the brief
    dresses the person differently.
"""

GARMENT = """
    Reproduce this garment as if this very piece lay in front of the camera: cut, length, fit, neckline,
    sleeves, closures, seams, fabric and its weight, colour, pattern, print and logo. Nothing is
    redesigned, recoloured or added. Take the garment only: hanger, mannequin, wearer and backdrop stay
    behind. If the image shows a whole outfit, all of it counts.
"""

GARMENTS = """
    The {count} garments share one sheet only to save space: every tile is a piece of its own, and all of
    them are used. Reproduce each one as if that very piece lay in front of the camera: cut, length, fit,
    neckline, sleeves, closures, seams, fabric and its weight, colour, pattern, print and logo. Nothing is
    redesigned, recoloured or mixed up between tiles. The sheet, its tiles and its margins are never seen.
"""

ACCESSORY = """
    An accessory or product. Keep its shape, proportions, material, colour, hardware, stitching and
    markings exactly, and its true size next to everything else.
"""

ACCESSORIES = """
    The {count} accessories or products share one sheet only to save space: every tile is an item of its
    own, and all of them are used. Keep the shape, proportions, material, colour, hardware, stitching and
    markings of each exactly, and its true size next to everything else. The sheet, its tiles and its
    margins are never seen.
"""

# --- camera: a person in the frame --------------------------------------------------------------------

PERSON_CAMERA = Camera(
    angles={
        "front": """
            from the front at eye level. Body and face turn towards the lens; the line of the shoulders is
            level or nearly so.
        """,
        "side": """
            from the side. The body stands at ninety degrees to the lens, so that posture, silhouette and
            the line of the garments read clearly; the head may turn a little towards the camera.
        """,
        "profile": """
            a formal portrait in profile. Upright and composed, shoulders settled, the head in clean
            profile or just short of it, the gaze level; a quiet studio pose, nothing caught by chance.
        """,
        "back": """
            from behind. The back of head and body faces the lens and the face is not seen, not even in a
            mirror or a reflection. The garments are told by their back: yoke, seams, vents, drape.
        """,
    },
    shots={
        "tight": """
            tight. Head and upper chest fill the frame, with a little air above the hair; the lower edge
            runs across the chest at the height of the armpits. Nothing further down is seen or hinted at.
            Short telephoto look.
        """,
        "middle": """
            middle. From the head down to mid-thigh, cut between hip and knee and never at a joint; hands
            are whole. Feet and footwear are outside the frame.
        """,
        "full": """
            full. The whole person from the crown of the head to the soles of the shoes, nothing cut off,
            both feet on the ground with a contact shadow. The figure takes up at least 85 % of the
            picture's height: the camera comes closer until it does.
        """,
    },
    together={
        ("back", "tight"): """
            Angle and framing: from behind, tight. The frame reaches from just above the hair down to the
            shoulder blades and ends there. The back of the head, the nape, the collar and the upper back
            are what is seen; the face is not.
        """,
    },
)

# --- camera: nobody in the frame ----------------------------------------------------------------------

PRODUCT_CAMERA = Camera(
    angles={
        "front": "straight on, at the height of the goods, their face towards the lens.",
        "side": "from the side, at the height of the goods, so that depth and silhouette read clearly.",
        "profile": "a formal catalogue view: level camera, clean outline, every vertical upright.",
        "back": "from behind, showing how the back is made.",
    },
    shots={
        "tight": "close. The goods fill the frame nearly to its edges; texture and workmanship can be read.",
        "middle": "medium. The goods take up about two thirds of the frame's height, with calm space around.",
        "full": """
            the whole arrangement, nothing cut off, the goods filling at least 85 % of the frame's height.
        """,
    },
)

# --- rules --------------------------------------------------------------------------------------------

PERSON_RULES = """
    - The person wears every garment and wears or carries every accessory of the reference images that the
    framing can show; each sits as it is worn in life, in the right layer, with weight, folds and tension
    where the body gives them.
    - One light for person, garments and place: the same direction, softness and colour; contact shadows
    where something touches.
    - Natural anatomy: two arms, two hands with five fingers each, proportions and a balance that the pose
    allows; the body has weight.
    - Skin and fabric keep their texture. A photograph from a professional camera, sharp on the person, no
    filter, no plastic smoothness.
"""

GOODS_RULES = """
    - Every piece lies, stands or hangs on something that could really carry it, with a contact shadow;
    folds and weight as gravity makes them.
    - True sizes towards each other; fabric, leather and metal answer the light as in life.
    - A photograph from a professional camera, sharp from the front to the back of the goods.
"""

PERSON_AVOID = """
    - Extra people, doubles, mirrored copies of the model, stray hands or limbs.
    - A different face, a beautified or younger face, a changed figure.
    - Garments or accessories that neither a reference image nor the brief names; changed colours or
    prints.
    - A person cut out and laid over a background.
"""

GOODS_AVOID = """
    - People and any part of them: a model, a face, hands, legs, skin, a silhouette, somebody's
    reflection; a mannequin with a head.
    - Further goods that no reference image shows; changed colours, prints or logos.
"""

OPEN_RULES = """
    - One light over everything: the same direction, softness and colour; contact shadows where something
    touches.
    - People, where the brief calls for them, have natural anatomy: two arms, two hands with five fingers
    each, proportions and a balance that the pose allows.
    - A photograph from a professional camera, sharp on its subject; skin, fabric and surfaces keep their
    texture.
"""

OPEN_AVOID = """
    - People the brief does not call for, doubles, stray hands or limbs.
    - A subject cut out and laid over a background.
"""

STUDIO = """
    If the brief names no place: a clean, seamless studio in a quiet neutral tone, with soft light from
    one side that models shape and fabric.
"""

PRODUCTS = frozenset({"clothing", "accessories"})

LOWER_BODY_WORDS = (
    *("바지", "팬츠", "하의", "스커트", "치마", "청바지", "슬랙스"),
    *("pants", "trousers", "jeans", "slacks", "shorts", "skirt", "stockings", "leggings", "tights"),
)
FOOTWEAR_WORDS = (
    *("신발", "슈즈", "운동화", "스니커즈", "부츠", "구두", "샌들", "로퍼"),
    *("shoes", "sneakers", "boots", "sandals", "loafers", "heels", "footwear", "socks"),
)

photograph = partial(Scene, setting=STUDIO, camera=PERSON_CAMERA)
goods = partial(
    Scene,
    setting=STUDIO,
    needs_any=PRODUCTS,
    counts=PRODUCTS,
    rules=GOODS_RULES,
    avoid=GOODS_AVOID,
    camera=PRODUCT_CAMERA,
)

STYLE = CategoryStyle(
    category=Category.FASHION,
    roles=(
        background(PLACE),
        Role(name="model", types=frozenset({"model"}), layout=Layout.EACH, limit=1, identity=True, one=PERSON),
        Role(
            name="clothing",
            types=frozenset({"top", "pants", "outer"}),
            layout=Layout.GRID,
            one=GARMENT,
            product=True,
            several=GARMENTS,
        ),
        Role(
            name="accessories",
            types=frozenset({"shoes", "bag", "accessory", "acce", "none", "product"}),
            layout=Layout.GRID,
            one=ACCESSORY,
            product=True,
            several=ACCESSORIES,
        ),
    ),
    scenes=(
        photograph(
            name="one person",
            needs=frozenset({"model"}),
            opening="""
                A fashion photograph of one person, made on location or in a studio for a magazine or a
                campaign. One camera, one moment, one exposure.
            """,
            rules=PERSON_RULES,
            avoid=PERSON_AVOID,
        ),
        goods(
            name="one product alone",
            exactly=1,
            opening="""
                A product photograph of exactly one piece: the one in the reference image, alone, nothing
                else for sale in the picture. Nobody is in it, nor any part of anybody.
            """,
        ),
        goods(
            name="products only",
            opening="""
                A product photograph of exactly {count} pieces, those of the reference images, arranged
                together as a still life. Products only: nobody is in it, nor any part of anybody.
            """,
        ),
        photograph(
            name="place or brief alone",
            opening="""
                A fashion photograph made for a magazine or a campaign. One camera, one moment, one
                exposure. The brief says who or what is in it; nobody appears whom it does not call for.
                What is said below about the person holds for whoever or whatever is its subject.
            """,
            rules=OPEN_RULES,
            avoid=OPEN_AVOID,
        ),
    ),
    shot_aliases={
        "close-up": "tight",
        "upper-body": "middle",
        "half-body": "middle",
        "medium": "middle",
        "full-body": "full",
        "full-shot": "full",
    },
    shot_filters={
        "tight": ShotFilter(types=frozenset({"pants", "shoes"}), words=LOWER_BODY_WORDS + FOOTWEAR_WORDS),
        "middle": ShotFilter(types=frozenset({"shoes"}), words=FOOTWEAR_WORDS),
    },
    merged_type="top",
    portrait_type="model",
    mixes={
        "model and garments": ("model", "top", "pants", "outer"),
        "model, garments, accessories and background": ("model", "top", "pants", "shoes", "bag", "background"),
        "model alone": ("model",),
        "one product": ("bag",),
        "several products and background": ("top", "bag", "accessory", "background"),
        "background alone": ("background",),
        "no references": (),
    },
    sample_prompt="An evening walk through the old town in blue jeans, 운동화를 신고, one hand in the pocket.",
)
