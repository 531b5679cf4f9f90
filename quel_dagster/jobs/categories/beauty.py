"""Beauty: a face and the cosmetics it stands for, or the cosmetics alone (domain.md §5, §6)."""

from functools import partial

from quel_dagster.jobs.categories.category import Camera, CategoryStyle, Layout, Role, Scene, background
from quel_dagster.jobs.model import Category

# --- reference images --------------------------------------------------------------------------------

PERSON = """
    The picture shows this very person, recognisable at first glance: bone structure and face shape, eyes,
    brows, nose, lips, skin tone, freckles and marks, hairline, hair colour and hairstyle, age. Nothing is
    slimmed, enlarged or made younger. Expression, gaze, pose and viewpoint follow the brief and the
    camera; make-up changes only as the brief or a shown product would change it.
"""

PRODUCT = """
    Keep this product as if it stood in front of the camera: shape and proportions of the container, cap,
    pump or brush, colour and shade, finish, transparency, and the label with its lettering and logo
    letter by letter, in the same place. True scale: as large as it is in a hand.
"""

PRODUCTS = """
    The {count} products share one sheet only to save space: every tile is a product of its own, and all
    of them are used. Keep each as if it stood in front of the camera: shape and proportions of the
    container, cap, pump or brush, colour and shade, finish, transparency, and the label with its
    lettering and logo letter by letter, in the same place. True scale towards each other and in a hand.
    The sheet, its tiles and its margins are never seen.
"""

PLACE = """
    Read this place for its surfaces, its palette, its light and its mood, and build the scene out of them
    afresh for this camera. Reinterpret it, do not paste it in; products and people that happen to be in
    it stay behind.
"""

# --- camera: a person in the frame --------------------------------------------------------------------

PERSON_CAMERA = Camera(
    angles={
        "front": """
            from the front at the height of the eyes, the face turned to the lens, both halves of it lit
            to be read.
        """,
        "side": """
            from the side, head and shoulders turned away by up to ninety degrees, cheekbone and jaw drawn
            by light.
        """,
        "profile": """
            a formal portrait in profile: upright, still, a clean outline of forehead, nose, lips and
            chin.
        """,
        "back": """
            from behind. The face is not seen, not even in a mirror; nape, hair and shoulders carry the
            picture.
        """,
    },
    shots={
        "tight": """
            tight. Head and upper chest, or closer still when the brief speaks of lips, lashes or skin;
            skin texture can be read. Short telephoto or macro look, shallow but honest depth of field.
        """,
        "middle": "middle. From the head down to mid-thigh, cut between hip and knee; both hands are whole.",
        "full": """
            full. The whole person from head to toe, nothing cut off, at least 85 % of the picture's
            height, standing, sitting or leaning on something real.
        """,
    },
    together={
        ("back", "tight"): """
            Angle and framing: from behind, tight. The frame reaches from just above the hair down to the
            shoulder blades and ends there; nape, hair and skin are the subject, the face is not seen.
        """,
    },
)

# --- camera: products alone ---------------------------------------------------------------------------

PRODUCT_CAMERA = Camera(
    angles={
        "front": "straight on, at the height of the products, labels to the lens and legible.",
        "side": "from the side, so that depth and outline of the containers read clearly.",
        "profile": """
            a formal catalogue view: level camera, verticals upright, a clean outline against the ground.
        """,
        "back": "from behind the products, as a designer would look at how they are made.",
    },
    shots={
        "tight": """
            close. The products fill the frame nearly to its edges; texture, edges and lettering can be
            read.
        """,
        "middle": """
            medium. The products take up about two thirds of the frame's height, calm space around them.
        """,
        "full": "the whole arrangement with the surface it stands on, nothing cut off.",
    },
)

# --- rules --------------------------------------------------------------------------------------------

HELD_PRODUCT_RULES = """
    - Every product of the reference images is seen once, and it is held or it rests: in a hand whose
    fingers close around it believably, against skin, or on a surface, with a contact shadow. It never
    floats.
    - Whatever the framing, every product stays in view, near the face or in the hand.
    - True scale: a lipstick is as long as a finger, a compact fits a palm.
    - The product is lit again with the scene: same direction, softness and colour of light as on the
    face, with reflections of this room in its gloss, not those of the reference image.
    - Skin is skin: pores, fine hair, natural sheen. Hands have five fingers and whole nails.
    - A beauty photograph from a professional camera with clean, exact colour.
"""

FACE_RULES = """
    - Skin is skin: pores, fine hair, natural sheen. Make-up sits on it as it does in life, even at the
    edges.
    - Light that shapes the face: one main source, gentle fill, catchlights that match it in both eyes.
    - Hands, where they are seen, have five fingers and whole nails.
    - A beauty photograph from a professional camera with clean, exact colour.
"""

STILL_LIFE_RULES = """
    - Every product stands, lies or leans on something that could really carry it, with a contact shadow.
    - True scale towards each other; glass, metal, cream and powder answer the light as in life.
    - Labels upright and legible where the camera sees them.
    - A still life from a professional camera, sharp across the products, clean and exact colour.
"""

OPEN_RULES = """
    - Whatever is shown has weight and touches what carries it, with a contact shadow.
    - People, where the brief calls for them, have real skin and natural anatomy.
    - A beauty photograph from a professional camera with clean, exact colour.
"""

PERSON_AVOID = """
    - Extra people, doubles, mirrored copies of the model, stray hands.
    - A different, slimmer or younger face; skin smoothed to plastic.
    - Products that no reference image shows, changed labels, invented lettering.
"""

STILL_LIFE_AVOID = """
    - People and any part of them: a face, lips, hands, fingers, skin, somebody's reflection.
    - One product more or one fewer; changed shapes, shades or labels; invented lettering.
"""

OPEN_AVOID = """
    - People the brief does not call for, doubles, stray hands.
    - Invented brands and lettering.
"""

STUDIO = """
    If the brief names no place: a plain studio ground in a tone that flatters the subject, with soft,
    large light.
"""

portrait = partial(Scene, setting=STUDIO, camera=PERSON_CAMERA)
still_life = partial(
    Scene,
    setting=STUDIO,
    needs=frozenset({"product"}),
    counts=frozenset({"product"}),
    rules=STILL_LIFE_RULES,
    avoid=STILL_LIFE_AVOID,
    camera=PRODUCT_CAMERA,
)

STYLE = CategoryStyle(
    category=Category.BEAUTY,
    roles=(
        Role(name="model", types=frozenset({"model"}), layout=Layout.EACH, limit=1, identity=True, one=PERSON),
        Role(
            name="product",
            types=frozenset(
                {
                    *("product", "lipstick", "cream", "bottle", "compact", "cosmetic"),
                    *("skincare", "makeup", "brush", "tool", "acce", "none"),
                }
            ),
            layout=Layout.GRID,
            takes_unknown=True,
            product=True,
            one=PRODUCT,
            several=PRODUCTS,
        ),
        background(PLACE),
    ),
    scenes=(
        portrait(
            name="model and products",
            needs=frozenset({"model", "product"}),
            opening="""
                A beauty photograph of one person together with the product, made for a cosmetics
                campaign: the face and what it uses belong to one moment and one light.
            """,
            rules=HELD_PRODUCT_RULES,
            avoid=PERSON_AVOID,
        ),
        portrait(
            name="model alone",
            needs=frozenset({"model"}),
            opening="""
                A beauty portrait of one person, made for a cosmetics campaign: face, skin and hair are
                the subject.
            """,
            rules=FACE_RULES,
            avoid=PERSON_AVOID,
        ),
        still_life(
            name="one product alone",
            exactly=1,
            opening="""
                A cosmetics still life of exactly one product: the one in the reference image, once, and
                no other. Nobody is in the picture.
            """,
        ),
        still_life(
            name="products only",
            opening="""
                A cosmetics still life of exactly {count} products: those of the reference images, each of
                them once, and no other. Nobody is in the picture.
            """,
        ),
        portrait(
            name="place or brief alone",
            opening="""
                A beauty photograph made for a cosmetics campaign. The brief says who or what is in it;
                nobody appears whom it does not call for. What is said below about the person holds for
                whoever or whatever is its subject.
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
    merged_type="product",
    portrait_type="model",
    mixes={
        "model and product": ("model", "lipstick"),
        "model, products and background": ("model", "cream", "brush", "background"),
        "model alone": ("model",),
        "one product": ("bottle",),
        "several products and background": ("lipstick", "compact", "skincare", "background"),
        "background alone": ("background",),
        "no references": (),
    },
    sample_prompt="Morning light, dewy skin, a calm and honest mood.",
)
