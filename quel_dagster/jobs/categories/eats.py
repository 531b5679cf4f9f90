"""Eats: dishes, ingredients and table props (domain.md §5, §6)."""

from functools import partial

from quel_dagster.jobs.categories.category import Camera, CategoryStyle, Layout, Role, Scene, background
from quel_dagster.jobs.model import Category

# --- reference images --------------------------------------------------------------------------------

DISH = """
    This dish stays the same food: the same kind, components, cut, doneness, sauce and colour, so that
    whoever cooked it would know it again.
"""

DISHES = """
    The {count} dishes are shown side by side only to save space: each is a dish of its own, and both are
    on the table. They stay the same food: the same kind, components, cut, doneness, sauce and colour. The
    line between them is never seen.
"""

INGREDIENT = """
    An ingredient or side. Show it fresh and true to kind: variety, colour, ripeness, cut. It supports the
    dish and never outshines it.
"""

INGREDIENTS = """
    The {count} ingredients or sides are shown side by side only to save space: each is used, separately.
    Show them fresh and true to kind: variety, colour, ripeness, cut. They support the dish and never
    outshine it. The line between them is never seen.
"""

PROP = """
    A prop or garnish. Keep its shape, material and colour; place it as a stylist would, where it helps
    the eye towards the food.
"""

PROPS = """
    The {count} props or garnishes are shown side by side only to save space: each is used, separately.
    Keep shape, material and colour of each; place them as a stylist would, where they help the eye
    towards the food. The line between them is never seen.
"""

PLACE = """
    Read this place for its table or counter, its materials, its light and its hour, and set the food into
    such a place afresh for this camera. Reinterpret it, do not paste it in; food and people that happen
    to be in it stay behind.
"""

# --- camera -------------------------------------------------------------------------------------------

CAMERA = Camera(
    angles={
        "front": "from the front, a little above the table, as a guest sees the plate set down before them.",
        "side": "from the side at the height of the plate, showing layers, height and what drips or melts.",
        "profile": "a formal view at table height: level camera, the dish upright and centred like a portrait.",
        "back": "from the far side of the table, the dish in front and the room behind it soft.",
        "overhead": """
            straight from above, the lens square to the table: plates are true circles, nothing leans, the
            arrangement is read like a page.
        """,
        "45-degree": """
            from forty-five degrees above, as one sees food when sitting down to eat: top and front both
            show.
        """,
        "macro": """
            macro, very near: crumb, grain, gloss, bubbles or steam fill the view; a thin plane of
            sharpness on the most appetising spot.
        """,
    },
    shots={
        "full-plate": "the whole plate or bowl with a little table around it, its rim nowhere cut off.",
        "hero-shot": """
            the hero shot. The dish alone commands the frame, large and slightly off centre or dead
            centre, all else quiet and out of focus.
        """,
        "detail": "a detail. One part of the dish fills the frame; the plate may run out of it on every side.",
        "context": """
            in context. The dish among table, tools, light and room, about a third of the frame, and still
            what the eye meets first.
        """,
    },
)

# --- styling ------------------------------------------------------------------------------------------

PRE_EDITED = """
    The dish in the reference is already styled and retouched, and its look is approved. Keep it: plating,
    arrangement, portion, garnish, crockery and colours stay as they are. Refine only light, sharpness and
    cleanliness, and turn the view as the camera asks.
"""

FREE_STYLING = """
    Style the food freely. Every dish stays what it is, but plating, portion, garnish, crockery and table
    are yours: choose fresh ones that suit the brief, and make this picture differ from the obvious one.
"""

# --- rules --------------------------------------------------------------------------------------------

RULES = """
    - Food obeys gravity: it lies in or on something, sauces flow down, steam rises, piles have a slope
    they can hold.
    - True sizes between food, crockery, cutlery and props; contact shadows under everything.
    - One light, best from the side or from behind, so that surfaces gleam and textures stand out; natural
    colours that make one hungry.
    - A food photograph from a professional camera, sharp where the appetite looks.
"""

AVOID = """
    - People and hands, unless the brief asks for them.
    - Dishes, garnish or cutlery doubled for no reason; food that looks like plastic or wax; dirty rims
    and stray drips.
    - Dishes that neither a reference image nor the brief names.
"""

TABLE = """
    If the brief names no place: a simple table of wood, stone or linen, in soft daylight from a window at
    the side.
"""

food = partial(Scene, setting=TABLE, rules=RULES, avoid=AVOID, camera=CAMERA)
dish = partial(food, pre_edited=PRE_EDITED, not_pre_edited=FREE_STYLING)

STYLE = CategoryStyle(
    category=Category.EATS,
    roles=(
        Role(
            name="food",
            identity=True,
            types=frozenset({"food", "dish", "main", "model", "product"}),
            layout=Layout.PAIRS,
            one=DISH,
            several=DISHES,
        ),
        Role(
            name="ingredient",
            types=frozenset({"ingredient", "side"}),
            layout=Layout.PAIRS,
            one=INGREDIENT,
            several=INGREDIENTS,
        ),
        Role(
            name="prop",
            types=frozenset({"prop", "topping", "garnish", "acce", "accessory", "none"}),
            layout=Layout.PAIRS,
            one=PROP,
            several=PROPS,
        ),
        background(PLACE),
    ),
    scenes=(
        dish(
            name="one dish",
            needs=frozenset({"food"}),
            counts=frozenset({"food"}),
            exactly=1,
            opening="""
                A food photograph of one dish, made for a restaurant, a cookbook or a menu. It should make
                people hungry.
            """,
        ),
        dish(
            name="several dishes",
            needs=frozenset({"food"}),
            counts=frozenset({"food"}),
            opening="""
                A food photograph of {count} dishes on one table, made for a restaurant, a cookbook or a
                menu. It should make people hungry.
            """,
        ),
        food(
            name="ingredients and props",
            needs_any=frozenset({"ingredient", "prop"}),
            opening="""
                A food photograph made for a restaurant, a cookbook or a menu: a still life of what the
                reference images show, with the dish of the brief if it names one.
            """,
            pre_edited="""
                The food in the references is already styled and retouched, and its look is approved. Keep
                it and refine only light, sharpness and cleanliness.
            """,
            not_pre_edited="""
                Style the table freely: arrangement, crockery and garnish are yours, as long as they suit
                the brief and make this picture differ from the obvious one.
            """,
        ),
        food(
            name="place or brief alone",
            opening="""
                A food photograph made for a restaurant, a cookbook or a menu. The brief says what is
                served; it should make people hungry.
            """,
        ),
    ),
    angle_aliases={
        "top": "overhead",
        "top-view": "overhead",
        "top-down": "overhead",
        "flat-lay": "overhead",
        "45": "45-degree",
        "45-degrees": "45-degree",
        "three-quarter": "45-degree",
    },
    shot_aliases={
        "full": "full-plate",
        "middle": "hero-shot",
        "hero": "hero-shot",
        "tight": "detail",
        "close-up": "detail",
    },
    merged_type="product",
    portrait_type="food",
    mixes={
        "one dish": ("food",),
        "two dishes, an ingredient, props and background": (
            *("food", "food", "ingredient", "prop", "prop", "prop"),
            "background",
        ),
        "ingredients and a prop": ("ingredient", "ingredient", "prop"),
        "background alone": ("background",),
        "no references": (),
    },
    sample_prompt="A late autumn lunch, warm and generous.",
)
