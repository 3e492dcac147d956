"""Top-K lists from vLLM: the rounds of `llmrec.vllm.rounds` through vLLM's public API, for a base and its adapters.

vLLM starts processes that import the main module again. A script must therefore create a `VllmEngine` under
`if __name__ == "__main__":`, as the command line does.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from llmrec.catalogue.registry import find_catalogue, register_catalogue
from llmrec.decode.top_k import TopK
from llmrec.errors import UserError
from llmrec.models.vocabulary import without_pads
from llmrec.progress.bar import Progress
from llmrec.vllm.interrupts import interruptible
from llmrec.vllm.request_keys import write_request
from llmrec.vllm.rounds import BeamSearchRounds, StepRequest, StepResponse
from llmrec.vllm.settings import engine_settings

if TYPE_CHECKING:
    from vllm import RequestOutput, SamplingParams, TokensPrompt
    from vllm.lora.request import LoRARequest

    from llmrec.catalogue.item_mask import ItemMask, MaskFactory

MAX_REQUESTS = 4096
"""Maximum number of requests of one round."""


class VllmEngine:
    """vLLM on a `base/` folder, for decoding many users offline.

    Args:
        base: the run's `base/` folder, or the checkpoint that has grown from it.
        adapters: folders of pure LoRA adapters of this base. `rank` and `sample` accept any of them.
        width: largest number of beams that `rank` accepts.
        cache_gb: as for `engine_settings`.
        catalogue: name of the registered catalogue of the items; None registers that of `base`.
        options: arguments of vLLM that replace ours; None restores vLLM's default.

    Attributes:
        name: name of the registered catalogue.
        llm: vLLM's `LLM`.

    Raises:
        UserError: vLLM is missing, a folder is not a base or an adapter, or an adapter belongs to another base.
    """

    def __init__(
        self,
        base: Path,
        adapters: Sequence[Path] = (),
        width: int = 50,
        cache_gb: float | None = None,
        catalogue: str | None = None,
        **options: Any,
    ) -> None:
        gpu_memory = "gpu_memory_utilization" not in options
        settings = engine_settings(base, adapters, width, cache_gb, gpu_memory) | options
        self.name = catalogue or register_catalogue(base)
        self._levels = find_catalogue(self.name).length
        self._width = width
        from vllm import LLM

        with interruptible():
            self.llm = LLM(**{key: value for key, value in settings.items() if value is not None})
        self._adapters = {path.resolve(): self._load(number, path) for number, path in enumerate(adapters, 1)}
        self._loaded = len(adapters)

    def rank(
        self,
        prompts: Sequence[Sequence[int]],
        width: int,
        masks: MaskFactory | None = None,
        adapter: Path | None = None,
    ) -> TopK:
        """Top items of many prompts; the lists equal those of the tree engine.

        Args:
            prompts: U token-id lists.
            width: number of beams and of returned items.
            masks: function of user indices; returns the allow- and deny-lists of these users.
            adapter: one of the engine's adapters; None uses the base alone.

        Returns:
            TopK of items in trie order, [U, width].

        Raises:
            UserError: more beams than the engine accepts, an adapter it was not started with, an empty prompt, or one
                longer than the model's context.
        """
        if width > self._width:
            raise UserError(f"width={width}, but the engine was started for at most {self._width} beams")
        lora = None if adapter is None else self._lora(adapter)
        check_lengths(prompts, self._levels, self.llm.model_config.max_model_len)
        items = np.full((len(prompts), width), -1, np.int64)
        scores = np.full((len(prompts), width), -np.inf, np.float32)
        groups = self._groups([len(prompt) for prompt in prompts], width)
        with Progress("decoding", len(prompts), "user") as progress:
            for group in groups:
                mask = None if masks is None else masks(group)
                top = self._search([prompts[user] for user in group], width, mask, lora)
                items[group], scores[group] = top.items, top.scores
                progress.update(len(group))
        return TopK(items, scores)

    def sample(
        self,
        prompts: Sequence[Sequence[int]],
        count: int,
        deny: Sequence[Sequence[str]],
        adapter: Path | None = None,
    ) -> TopK:
        """Independent samples from the policy under the catalogue's constraint.

        Args:
            prompts: U token-id lists.
            count: number of samples a prompt.
            deny: for each prompt, item ids that must not be drawn.
            adapter: as for `rank`.

        Returns:
            TopK [U, count] of items in trie order; `scores` are log-probabilities as in training.

        Raises:
            UserError: an adapter the engine was not started with, an empty prompt, or one longer than the model's
                context.
        """
        lora = None if adapter is None else self._lora(adapter)
        check_lengths(prompts, self._levels, self.llm.model_config.max_model_len)
        outputs = self.llm.generate(
            [_tokens(prompt) for prompt in prompts],
            [_sampling(self.name, self._levels, count, list(row)) for row in deny],
            lora_request=lora,
            use_tqdm=False,
        )
        samples = [[_read_sample(sample, self._places) for sample in output.outputs] for output in outputs]
        items = np.array([[item for item, _ in row] for row in samples], np.int64)
        return TopK(items, np.array([[score for _, score in row] for row in samples], np.float32))

    @cached_property
    def _places(self) -> dict[tuple[int, ...], int]:
        """SID tokens of an item → its index in trie order."""
        paths = without_pads(find_catalogue(self.name).tokens.tolist())
        return {tuple(path): item for item, path in enumerate(paths)}

    def replace_adapter(self, old: Path, new: Path) -> None:
        """Unload the adapter `old` and load `new`.

        Raises:
            UserError: the engine has no adapter `old`, or vLLM cannot load `new`.
        """
        self.llm.llm_engine.remove_lora(self._lora(old).lora_int_id)
        del self._adapters[old.resolve()]
        self._loaded += 1
        self._adapters[new.resolve()] = self._load(self._loaded, new)

    def close(self) -> None:
        """Stop vLLM's processes."""
        self.llm.llm_engine.engine_core.shutdown(timeout=10)

    def _search(
        self, prompts: list[Sequence[int]], width: int, mask: ItemMask | None, lora: LoRARequest | None
    ) -> TopK:
        """Beam search for one group of users."""
        rounds = BeamSearchRounds(self.name, prompts, width, mask)
        while steps := rounds.requests():
            requests = [engine_request(step) for step in steps]
            outputs = self.llm.generate(
                [prompt for prompt, _ in requests],
                [settings for _, settings in requests],
                lora_request=lora,
                use_tqdm=False,
            )
            rounds.update([read_response(output) for output in outputs])
        return rounds.top()

    def _groups(self, lengths: list[int], width: int) -> list[list[int]]:
        """Groups of users whose prompts fit into half of the prefix cache.

        Each level can then reuse the cache of the level before.
        """
        cache = self.llm.llm_engine.vllm_config.cache_config
        max_blocks = (cache.num_gpu_blocks or 0) // 2
        most = max(1, MAX_REQUESTS // width)
        groups: list[list[int]] = []
        filled = 0
        for user, length in enumerate(lengths):
            blocks = -(-length // cache.block_size)
            if not groups or filled + blocks > max_blocks or len(groups[-1]) == most:
                groups.append([])
                filled = 0
            groups[-1].append(user)
            filled += blocks
        return groups

    def _lora(self, adapter: Path) -> LoRARequest:
        """vLLM's request for one of the engine's adapters; a UserError for another."""
        if adapter.resolve() not in self._adapters:
            raise UserError(f"{adapter}: not among the adapters the engine was started with")
        return self._adapters[adapter.resolve()]

    def _load(self, number: int, path: Path) -> LoRARequest:
        """Load an adapter at start.

        If vLLM loaded it with the first request, an adapter that does not fit would stop the engine.
        """
        from vllm.lora.request import LoRARequest

        lora = LoRARequest(f"{number}-{path.name}", number, str(path.resolve()))
        try:
            self.llm.llm_engine.add_lora(lora)
        except Exception as error:
            self.close()
            raise UserError(f"{path}: vLLM cannot load the adapter; decode.engine=tree may") from error
        return lora


def check_lengths(prompts: Sequence[Sequence[int]], levels: int, context: int) -> None:
    """Raise a UserError if a prompt is empty, or exceeds a context of `context` tokens with an ID of `levels`."""
    if not all(prompts):
        raise UserError("a prompt is empty: nothing to decode from")
    longest = max((len(prompt) for prompt in prompts), default=0)
    if longest + levels > context:
        raise UserError(
            f"a prompt of {longest} tokens and {levels} of a semantic ID exceed the context of {context}; "
            "shorten the history (data.history)"
        )


def engine_request(request: StepRequest) -> tuple[TokensPrompt, SamplingParams]:
    """vLLM's prompt and sampling parameters of a request."""
    from vllm import SamplingParams, TokensPrompt
    from vllm.sampling_params import RequestOutputKind

    settings = SamplingParams(
        temperature=0,
        max_tokens=request.steps,
        logprobs=request.count,
        detokenize=False,
        flat_logprobs=True,
        skip_clone=True,
        output_kind=RequestOutputKind.FINAL_ONLY,
        extra_args=request.extra_args,
    )
    return TokensPrompt(prompt_token_ids=request.tokens), settings


def _tokens(prompt: Sequence[int]) -> TokensPrompt:
    from vllm import TokensPrompt

    return TokensPrompt(prompt_token_ids=list(prompt))


def _sampling(catalogue: str, levels: int, count: int, deny: list[str]) -> SamplingParams:
    """Sampling parameters of a request for `count` samples under a catalogue."""
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    return SamplingParams(
        n=count,
        temperature=1.0,
        max_tokens=levels,
        logprobs=0,
        detokenize=False,
        output_kind=RequestOutputKind.FINAL_ONLY,
        extra_args=write_request(catalogue, deny=deny),
    )


def _read_sample(output: Any, places: dict[tuple[int, ...], int]) -> tuple[int, float]:
    """Item and score of one sample; a textual ID may be followed by the end token."""
    tokens = list(output.token_ids)
    scores = [log_probs[token].logprob for token, log_probs in zip(tokens, output.logprobs, strict=True)]
    for size in range(len(tokens), 0, -1):
        if tuple(tokens[:size]) in places:
            return places[tuple(tokens[:size])], sum(scores[:size])
    raise RuntimeError(f"vLLM drew tokens {tokens}, which are no item: its logits processor is not at work")


def read_response(output: RequestOutput) -> StepResponse:
    """The engine's response to a request; the log-probability of a token that is not legal is −inf."""
    # vLLM declares several forms; `flat_logprobs` of the request selects this one.
    flat: Any = output.outputs[0].logprobs
    steps = [
        dict(zip(flat.token_ids[start:end], flat.logprobs[start:end], strict=True))
        for start, end in zip(flat.start_indices, flat.end_indices, strict=True)
    ]
    return StepResponse(output.outputs[0].token_ids, steps)
