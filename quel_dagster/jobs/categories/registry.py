"""Find the module of a category by its name. A new category needs one new file and one enum member."""

from __future__ import annotations

from functools import cache
from importlib import import_module

from quel_dagster.jobs.categories.category import CategoryStyle
from quel_dagster.jobs.model import Category


@cache
def style_of(category: Category) -> CategoryStyle:
    """Return the `STYLE` of the module that has the category's name."""
    style = import_module(f"{__package__}.{category.value}").STYLE
    if not isinstance(style, CategoryStyle) or style.category is not category:
        raise TypeError(f"categories/{category.value}.py does not hold the style of {category.value}")
    return style
