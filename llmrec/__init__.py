"""Fine-tune a language model into a recommender with semantic IDs, and prove that it recommends.

>>> from llmrec import Recommender
>>> Recommender.load("quickstart").recommend(["50", "181"], k=10)  # doctest: +SKIP
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llmrec.recommend.recommender import Recommendation, Recommender

__version__ = "0.1.0"
__all__ = ["Recommendation", "Recommender", "UserError", "__version__"]

_LAZY = {
    "Recommender": "llmrec.recommend.recommender",
    "Recommendation": "llmrec.recommend.recommender",
    "UserError": "llmrec.errors",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        from importlib import import_module

        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
