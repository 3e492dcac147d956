"""Fine-tune a language model into a recommender with semantic IDs, and prove that it recommends.

>>> from llmrec import Recommender
>>> Recommender.load("quickstart").recommend([50, 181], k=10)  # doctest: +SKIP

The names in `__all__` are the public interface; docs/python.md describes it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llmrec.decode.top_k import TopK
    from llmrec.errors import (
        ChangedCatalogueError,
        ChangedRunError,
        InvalidRequestError,
        UnfinishedRunError,
        UnknownItemError,
        UnknownModelError,
        UnknownRunError,
        UnknownUserError,
        UserError,
    )
    from llmrec.recommend.recommender import Recommender
    from llmrec.recommend.requests import Recommendation

__version__ = "0.1.0"
__all__ = [
    "ChangedCatalogueError",
    "ChangedRunError",
    "InvalidRequestError",
    "Recommendation",
    "Recommender",
    "TopK",
    "UnfinishedRunError",
    "UnknownItemError",
    "UnknownModelError",
    "UnknownRunError",
    "UnknownUserError",
    "UserError",
    "__version__",
]

_MODULES = {
    "Recommendation": "llmrec.recommend.requests",
    "Recommender": "llmrec.recommend.recommender",
    "TopK": "llmrec.decode.top_k",
}
"""Where the public names are defined that are not exceptions; they are imported when they are first used."""


def __getattr__(name: str) -> Any:
    if name in __all__:
        from importlib import import_module

        return getattr(import_module(_MODULES.get(name, "llmrec.errors")), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
