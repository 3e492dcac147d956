"""HSTU as a baseline: it predicts the next item of a history.

Zhai et al., Actions speak louder than words, ICML 2024.
"""

from __future__ import annotations

from typing import ClassVar

from llmrec.collaborative.hstu.model import HstuModel
from llmrec.collaborative.hstu.settings import HstuSettings
from llmrec.collaborative.sequential.ranker import SequentialRanker
from llmrec.collaborative.sequential.settings import SequentialSettings
from llmrec.collaborative.sequential.training import Build


class Hstu(SequentialRanker):
    """A trained HSTU."""

    title: ClassVar[str] = "HSTU"
    metadata: ClassVar[str] = "hstu"
    settings: ClassVar[type[SequentialSettings]] = HstuSettings
    build: ClassVar[Build] = HstuModel
