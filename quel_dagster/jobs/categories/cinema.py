from quel_dagster.jobs.categories.fashion import STYLE as _FASHION
from quel_dagster.jobs.model import Category

STYLE = _FASHION.model_copy(update={"category": Category.CINEMA})
