"""The recipe's `ids.quantizer` section: one class a kind, named after the module that implements it."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, get_args

from pydantic import Field

from llmrec.config.section import Positive, Section

Levels = Annotated[int, Field(ge=1, le=8)]
Codes = Annotated[int, Field(ge=2, le=65536)] | Literal["auto"]
Rate = Annotated[float, Field(gt=0)]
Weight = Annotated[float, Field(ge=0)]


class TokenizerConfig(Section):
    """Settings of a tokenizer, and what the stages must know about its kind.

    Attributes:
        reads_item_vectors: whether it learns from a collaborative model's item vectors.
        collision_rule: the rule that `ids.collisions: auto` uses.
    """

    reads_item_vectors: ClassVar[bool] = False
    collision_rule: ClassVar[Literal["extra_level", "sinkhorn"]] = "extra_level"


class _Codebooks(TokenizerConfig):
    """Settings of every quantizer of vectors. `codes: auto` fits the catalogue, with at most 256 codes a level."""

    levels: Levels = 3
    codes: Codes = "auto"


class _Kmeans(_Codebooks):
    """Codebooks learned by k-means."""

    iterations: Positive = 25


class RqKmeansConfig(_Kmeans):
    """Residual k-means."""

    kind: Literal["rq_kmeans"] = "rq_kmeans"


class BalancedRqKmeansConfig(_Kmeans):
    """Residual k-means with clusters of equal size, ±1."""

    kind: Literal["balanced_rq_kmeans"]


class VqConfig(TokenizerConfig):
    """One k-means codebook. Only the collision rule separates the items of one code."""

    kind: Literal["vq"]
    codes: Codes = "auto"
    iterations: Positive = 25


class HierarchicalConfig(_Kmeans):
    """Hierarchical k-means: each cluster is clustered again."""

    kind: Literal["hierarchical"]


class PqConfig(_Kmeans):
    """Product quantization: `levels` subspaces, each with its own codebook."""

    kind: Literal["pq"]


class OpqConfig(_Kmeans):
    """Product quantization after a learned rotation."""

    kind: Literal["opq"]


class LshConfig(_Codebooks):
    """Locality-sensitive hashing: each code consists of the signs of log2(`codes`) random projections."""

    kind: Literal["lsh"]


class AutoencoderConfig(_Codebooks):
    """An MLP autoencoder with residual codebooks between encoder and decoder.

    Attributes:
        hidden: widths of the encoder's hidden layers; the decoder mirrors them.
        latent: dimension of the codebooks' vectors.
        beta: weight of the commitment loss.
        lr: learning rate.
        batch: items per step.
        epochs: epochs of training.
    """

    kind: str
    hidden: list[Positive] = [512, 256, 128]
    latent: Positive = 32
    beta: Weight = 0.25
    lr: Rate = 3e-3
    batch: Positive = 512
    epochs: Positive = 1000


class RqvaeConfig(AutoencoderConfig):
    """RQ-VAE of TIGER (Rajput et al. 2023)."""

    kind: Literal["rqvae"]


class LcRecConfig(AutoencoderConfig):
    """RQ-VAE of LC-Rec (Zheng et al. 2024): larger, with evenly used codes at the last level (Sinkhorn-Knopp)."""

    kind: Literal["lc_rec"]
    collision_rule: ClassVar[Literal["extra_level", "sinkhorn"]] = "sinkhorn"
    hidden: list[Positive] = [2048, 1024, 512, 256, 128, 64]
    lr: Rate = 2e-3
    epsilon: Rate = 0.003
    iterations: Positive = 50


class LetterConfig(AutoencoderConfig):
    """LETTER (Wang et al. 2024): RQ-VAE aligned with collaborative vectors, with a diversity loss on codebooks."""

    kind: Literal["letter"]
    reads_item_vectors: ClassVar[bool] = True
    alpha: Weight = 0.01
    diversity: Weight = 1e-4
    clusters: Positive = 10


class CostConfig(AutoencoderConfig):
    """CoST (Zhu et al. 2024): RQ-VAE with a contrastive loss instead of the reconstruction loss."""

    kind: Literal["cost"]
    batch: Positive = 1024
    temperature: Rate = 0.1


class RandomConfig(_Codebooks):
    """Random codes: the baseline that shows how much structured IDs gain."""

    kind: Literal["random"]


class SequentialConfig(_Codebooks):
    """Items numbered in the order of their first occurrence in the training histories."""

    kind: Literal["sequential"]


class _Clusters(TokenizerConfig):
    """How a graph is split.

    Attributes:
        clusters: clusters per split; `auto` uses 20, or √items for a small catalogue.
        leaf: most items of a cluster that is not split further; `auto` uses `clusters`.
    """

    clusters: Annotated[int, Field(ge=2, le=256)] | Literal["auto"] = "auto"
    leaf: Positive | Literal["auto"] = "auto"


class CollaborativeIdsConfig(_Clusters):
    """Spectral clusters of the item co-occurrence graph, split until they are small enough."""

    kind: Literal["collaborative"]


class CategoryConfig(TokenizerConfig):
    """The category path, at most `levels` deep."""

    kind: Literal["category"]
    levels: Levels = 4


class HybridConfig(_Clusters):
    """The path of collaborative clusters, followed by one token per item."""

    kind: Literal["hybrid"]


class SingleConfig(TokenizerConfig):
    """One token per item."""

    kind: Literal["single"]


class IndexConfig(TokenizerConfig):
    """IDs from an index file of MiniOneRec, LC-Rec or LETTER."""

    kind: Literal["index"]
    path: str


class KeptConfig(TokenizerConfig):
    """The IDs of an earlier run (name or folder). New items get IDs from that run's frozen quantizer."""

    kind: Literal["kept"]
    run: str


class TitleConfig(TokenizerConfig):
    """The title's first words, in the base model's own tokens; up to twice as many if two titles are the same."""

    kind: Literal["title"]
    words: Positive = 12


class KeywordsConfig(TokenizerConfig):
    """A few distinctive words of the item, chosen by tf-idf (after IDGenRec, without its training)."""

    kind: Literal["keywords"]
    words: Positive = 4


TokenizerConfig = Annotated[
    RqKmeansConfig
    | BalancedRqKmeansConfig
    | VqConfig
    | HierarchicalConfig
    | PqConfig
    | OpqConfig
    | LshConfig
    | RqvaeConfig
    | LcRecConfig
    | LetterConfig
    | CostConfig
    | RandomConfig
    | SequentialConfig
    | CollaborativeIdsConfig
    | CategoryConfig
    | HybridConfig
    | SingleConfig
    | IndexConfig
    | KeptConfig
    | TitleConfig
    | KeywordsConfig,
    Field(discriminator="kind"),
]
KINDS: dict[str, type[Section]] = {
    section.model_fields["kind"].annotation.__args__[0]: section
    for section in get_args(get_args(TokenizerConfig)[0])
}
