"""Registries of tokenizers, collaborative systems and metrics: one line for each (docs/extending.md)."""

from __future__ import annotations

from llmrec.plugins import Registry

TOKENIZERS = Registry(
    noun="tokenizer",
    base="llmrec.ids.tokenizer:AnyTokenizer",
    method="fit",
    parameters=("signals", "seed"),
    shipped={
        "rq_kmeans": "llmrec.ids.quantizers.rq_kmeans:RqKmeansTokenizer",
        "balanced_rq_kmeans": "llmrec.ids.quantizers.balanced_rq_kmeans:BalancedRqKmeansTokenizer",
        "vq": "llmrec.ids.quantizers.vq:VqTokenizer",
        "hierarchical": "llmrec.ids.quantizers.hierarchical:HierarchicalTokenizer",
        "pq": "llmrec.ids.quantizers.pq:PqTokenizer",
        "opq": "llmrec.ids.quantizers.opq:OpqTokenizer",
        "lsh": "llmrec.ids.quantizers.lsh:LshTokenizer",
        "rqvae": "llmrec.ids.quantizers.rqvae:RqvaeTokenizer",
        "lc_rec": "llmrec.ids.quantizers.lc_rec:LcRecTokenizer",
        "letter": "llmrec.ids.quantizers.letter:LetterTokenizer",
        "cost": "llmrec.ids.quantizers.cost:CostTokenizer",
        "random": "llmrec.ids.indexers.random:RandomTokenizer",
        "sequential": "llmrec.ids.indexers.sequential:SequentialTokenizer",
        "collaborative": "llmrec.ids.indexers.collaborative:CollaborativeTokenizer",
        "category": "llmrec.ids.indexers.category:CategoryTokenizer",
        "hybrid": "llmrec.ids.indexers.hybrid:HybridTokenizer",
        "single": "llmrec.ids.indexers.single:SingleTokenizer",
        "index": "llmrec.ids.indexers.index:IndexTokenizer",
        "kept": "llmrec.ids.indexers.kept:KeptTokenizer",
        "title": "llmrec.ids.textual.title:TitleTokenizer",
        "keywords": "llmrec.ids.textual.keywords:KeywordsTokenizer",
    },
)
"""Kinds of `ids.quantizer`."""

SYSTEMS = Registry(
    noun="collaborative system",
    base="llmrec.collaborative.system:System",
    method="fit",
    parameters=("data",),
    shipped={
        "popularity": "llmrec.collaborative.popularity:PopularitySystem",
        "item_knn": "llmrec.collaborative.item_knn:ItemKnnSystem",
        "recent_knn": "llmrec.collaborative.recent_knn:RecentKnnSystem",
        "succession": "llmrec.collaborative.succession:SuccessionSystem",
        "text_knn": "llmrec.collaborative.text_knn:TextKnnSystem",
        "user_knn": "llmrec.collaborative.baselines.user_knn:UserKnnSystem",
        "ease": "llmrec.collaborative.baselines.ease:EaseSystem",
        "als": "llmrec.collaborative.baselines.als:AlsSystem",
        "bpr": "llmrec.collaborative.baselines.bpr:BprSystem",
        "mult_vae": "llmrec.collaborative.baselines.mult_vae:MultVaeSystem",
        "gru4rec": "llmrec.collaborative.baselines.gru4rec:Gru4RecSystem",
        "bert4rec": "llmrec.collaborative.baselines.bert4rec:Bert4RecSystem",
        "sasrec_bce": "llmrec.collaborative.sasrec.system:SasrecBce",
        "sasrec_ce": "llmrec.collaborative.sasrec.system:SasrecCe",
        "sasrec_plus": "llmrec.collaborative.sasrec.system:SasrecPlus",
        "hstu": "llmrec.collaborative.hstu.system:HstuSystem",
        "mixture": "llmrec.collaborative.mixture:MixtureSystem",
    },
)
"""Baselines of `eval.baselines`, teachers, priors and judges. A system is listed after the systems it combines."""

METRICS = Registry(
    noun="metric",
    base="llmrec.metrics.metric:Metric",
    method="value",
    parameters=("ranks or lists", "k"),
    shipped={
        "hr": "llmrec.metrics.ranking:HIT_RATE",
        "ndcg": "llmrec.metrics.ranking:NDCG",
        "mrr": "llmrec.metrics.ranking:MRR",
        "recall": "llmrec.metrics.ranking:RECALL",
        "precision": "llmrec.metrics.ranking:PRECISION",
        "f1": "llmrec.metrics.ranking:F1",
        "map": "llmrec.metrics.ranking:MAP",
        "coverage": "llmrec.metrics.catalogue:COVERAGE",
        "gini": "llmrec.metrics.catalogue:GINI",
        "coverage_head": "llmrec.metrics.catalogue:COVERAGE_HEAD",
        "coverage_middle": "llmrec.metrics.catalogue:COVERAGE_MIDDLE",
        "coverage_tail": "llmrec.metrics.catalogue:COVERAGE_TAIL",
        "novelty": "llmrec.metrics.novelty:NOVELTY",
        "average_popularity": "llmrec.metrics.novelty:AVERAGE_POPULARITY",
        "popularity_lift": "llmrec.metrics.novelty:POPULARITY_LIFT",
        "diversity": "llmrec.metrics.diversity:DIVERSITY",
        "text_diversity": "llmrec.metrics.diversity:TEXT_DIVERSITY",
        "unexpectedness": "llmrec.metrics.unexpectedness:UNEXPECTEDNESS",
        "serendipity": "llmrec.metrics.unexpectedness:SERENDIPITY",
        "calibration": "llmrec.metrics.calibration:CALIBRATION",
    },
)
"""Entries of `eval.metrics`."""
