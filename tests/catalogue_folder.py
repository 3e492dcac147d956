"""A `base/` folder's catalogue without its model, and catalogues drawn by hypothesis."""

import json
from dataclasses import replace

import numpy as np
from hypothesis import strategies as st

from llmrec.catalogue import registry
from llmrec.vllm.rounds import StepResponse


@st.composite
def sid_tables(draw, levels=3, codes=4):
    """Unique semantic IDs in lexicographic order, int32 [items, levels]."""
    sid = st.tuples(*[st.integers(0, codes - 1)] * levels)
    return np.array(sorted(draw(st.sets(sid, min_size=1, max_size=24))), np.int32)


def write_base(folder, sids, codes=4, first_token=10):
    """Write `llmrec.json` and `sids.npy`; items are `i0`, `i1`, … in trie order, tokens of a level run downwards."""
    folder.mkdir(parents=True, exist_ok=True)
    levels = sids.shape[1]
    token_ids = [
        [first_token + codes * (level + 1) - 1 - code for code in range(codes)] for level in range(levels)
    ]
    about = {
        "version": 1,
        "levels": levels,
        "codes": [codes] * levels,
        "sid_token_ids": token_ids,
        "items": [f"i{item}" for item in range(len(sids))],
        "prompts": {},
    }
    (folder / "llmrec.json").write_text(json.dumps(about))
    np.save(folder / "sids.npy", sids)
    return np.stack([np.array(ids)[sids[:, level]] for level, ids in enumerate(token_ids)], axis=1)


def registered(folder, sids, codes=4):
    """Write and register a base; returns the catalogue's name and its items' tokens, int [items, levels]."""
    tokens = write_base(folder / "base", sids, codes)
    registry._load.cache_clear()
    return registry.register_catalogue(folder / "base"), tokens


def answer(request, follow):
    """An engine's response: `follow(request)` gives token → log-probability, and decoding is greedy."""
    response = StepResponse([], [])
    for _ in range(request.steps):
        response.steps.append(follow(request))
        response.tokens.append(max(response.steps[-1], key=response.steps[-1].get))
        deeper = {"llmrec_depth": request.extra_args["llmrec_depth"] + 1}
        request = replace(
            request, tokens=[*request.tokens, response.tokens[-1]], extra_args=request.extra_args | deeper
        )
    return response


def registered_pairs(folder):
    """A catalogue's name and its items' tokens: every code pair but <a_3>, two levels of four codes."""
    return registered(folder, np.array([[a, b] for a in range(3) for b in range(4)], np.int32))
