"""SASRec as a baseline: a causal transformer over items that predicts the next item of a history.

Kang & McAuley, Self-attentive sequential recommendation, ICDM 2018.
"""

from __future__ import annotations

from typing import ClassVar

from llmrec.collaborative.sasrec.model import SasrecModel
from llmrec.collaborative.sasrec.settings import SasrecSettings
from llmrec.collaborative.sequential.ranker import SequentialRanker
from llmrec.collaborative.sequential.settings import SequentialSettings
from llmrec.collaborative.sequential.training import Build


class Sasrec(SequentialRanker):
    """A trained SASRec."""

    title: ClassVar[str] = "SASRec"
    metadata: ClassVar[str] = "sasrec"
    settings: ClassVar[type[SequentialSettings]] = SasrecSettings
    build: ClassVar[Build] = SasrecModel
