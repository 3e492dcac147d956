"""The vLLM plugin that restricts sampling to the items of a catalogue, for requests that name one.

One class implements both of vLLM's interfaces. V1 passes batch updates, and the sampled tokens as lists; V2 passes
request slots, and the tokens as device buffers. With either, each step collects the rows' prefixes, walks them down
the trie, and masks the whole batch at once. vLLM loads the class into every engine of the environment. A request
without `llmrec_catalogue` is not changed.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from vllm.v1.sample.logits_processor.interface import LogitsProcessor as ProcessorV1
from vllm.v1.sample.logits_processor.interface import MoveDirectionality
from vllm.v1.worker.gpu.sample.logits_processor.interface import LogitsProcessor as ProcessorV2

from llmrec.catalogue.catalogue import Prefixes
from llmrec.errors import UserError
from llmrec.vllm.constraint import RowLists, constrain
from llmrec.vllm.request_keys import DEPTH, ConstrainedRequest, read_request
from llmrec.vllm.requests import SETTINGS, checked_request

if TYPE_CHECKING:
    import numpy.typing as npt
    from vllm import SamplingParams
    from vllm.config import VllmConfig
    from vllm.v1.sample.logits_processor.interface import BatchUpdate
    from vllm.v1.worker.gpu.sample.logits_processor.interface import LogitsContext, LogitsProcRequestState

    from llmrec.catalogue.catalogue import Catalogue

UNCONSTRAINED, END_ONLY = -1, -2
"""`owner` of a slot without our constraint, and of a slot whose request may only produce its end token."""
_PLACEHOLDER = -1
_EMPTY_LIST = np.zeros(0, np.int64)
_log = logging.getLogger(__name__)


class Slots:
    """The requests of a batch as arrays; each slot holds one request.

    Attributes:
        catalogues: catalogues that requests have named so far.
        owner: int64 [slots], index into `catalogues`, `UNCONSTRAINED` or `END_ONLY`.
        depth: int64 [slots], number of SID tokens at the end of the prompt.
        end: int64 [slots], the token that ends the request.
        is_allow_list: bool [slots], whether the slot's list contains the allowed items.
        lists: for each slot, int64 [n], sorted items.
        tokens: int64 [slots, ≥ L], the SID tokens so far; V1 only.
        count: int64 [slots], number of SID tokens so far; V1 only.
    """

    def __init__(self, slots: int) -> None:
        self.catalogues: list[Catalogue] = []
        self.owner = np.full(slots, UNCONSTRAINED)
        self.depth = np.zeros(slots, np.int64)
        self.end = np.zeros(slots, np.int64)
        self.is_allow_list = np.zeros(slots, bool)
        self.lists = [_EMPTY_LIST] * slots
        self.tokens = np.zeros((slots, 1), np.int64)
        self.count = np.zeros(slots, np.int64)

    def put(self, slot: int, request: ConstrainedRequest, end: int) -> None:
        """Write a request into a slot, in place of the previous one."""
        catalogue = request.catalogue
        if not any(other is catalogue for other in self.catalogues):
            self.catalogues.append(catalogue)
        self.owner[slot] = next(i for i, other in enumerate(self.catalogues) if other is catalogue)
        self.depth[slot] = request.depth
        self.end[slot] = end
        self.is_allow_list[slot] = request.is_allow_list
        self.lists[slot] = request.items
        missing = catalogue.length - self.tokens.shape[1]
        if missing > 0:
            self.tokens = np.pad(self.tokens, ((0, 0), (0, missing)))

    def write(self, slot: int, start: int, tokens: list[int]) -> None:
        """Store the tokens of a slot's prefix from `start` on.

        Tokens after a complete semantic ID are only counted.
        """
        columns = self.tokens.shape[1] - start
        self.tokens[slot, start : start + len(tokens)] = tokens[: max(0, columns)]
        self.count[slot] = start + len(tokens)

    def move(self, source: int, target: int, swap: bool) -> None:
        """Move a slot's request to another, or swap the two."""
        for array in (self.owner, self.depth, self.end, self.is_allow_list, self.tokens, self.count):
            array[[target, source]] = array[[source, target]]
        self.lists[target], self.lists[source] = self.lists[source], self.lists[target]
        if not swap:
            self.owner[source] = UNCONSTRAINED

    def row_lists(self, slots: npt.NDArray[np.int64], items: int, device: torch.device) -> RowLists | None:
        """Allow- and deny-lists of these slots; None if no slot has one."""
        lists = [self.lists[slot] for slot in slots.tolist()]
        stride = items + 1
        lengths = [len(row) for row in lists]
        if not any(lengths):
            return None
        keys = np.concatenate(lists) + np.repeat(np.arange(len(slots)) * stride, lengths)
        is_allow_list = torch.from_numpy(self.is_allow_list[slots, None]).to(device, non_blocking=True)
        return RowLists(torch.from_numpy(keys).to(device, non_blocking=True), is_allow_list, stride)


@dataclass
class _Report:
    """Dead prefixes that are being copied from the device.

    Attributes:
        dead: bool [R], whether the row's prefix is dead.
        tokens: int64 [R, ≥ L], tokens of the prefixes.
        count: int64 [R], length of each prefix.
        ready: event after which the copies are complete; None if they already are.
    """

    dead: torch.Tensor
    tokens: torch.Tensor
    count: torch.Tensor
    ready: torch.Event | None = None


class TrieLogitsProcessor(ProcessorV1, ProcessorV2):
    """Restricts requests to the items of the catalogue that they name.

    `llmrec.vllm.request_keys` lists the keys of a request. With `logprobs_mode="processed_logits"` the
    returned log-probabilities of legal tokens are normalised over the model's full vocabulary. Speculative decoding
    works with V2 only.

    Args:
        vllm_config: the engine's configuration.
        device_or_states: V1: the device; V2: the runner's request states.
        is_pin_memory: passed by V1 only; not used.
    """

    def __init__(
        self,
        vllm_config: VllmConfig,
        device_or_states: torch.device | LogitsProcRequestState,
        is_pin_memory: bool | None = None,
    ) -> None:
        self._states: Any = None
        if isinstance(device_or_states, torch.device):
            self._device, slots = device_or_states, vllm_config.scheduler_config.max_num_seqs
        else:
            self._states = device_or_states
            self._device, slots = device_or_states.device, device_or_states.max_num_reqs
        self._slots = Slots(slots)
        self._outputs: dict[int, list[int]] = {}
        self._has_placeholders = False
        self._end = _end_token(vllm_config)
        self._on_device: dict[int, Catalogue] = {}
        self._reports: list[_Report] = []
        # The entry point and `--logits-processors` may both name this class. A second pass would normalise over the
        # allowed tokens.
        self._is_duplicate = getattr(vllm_config, "_llmrec_processor", False)
        vllm_config._llmrec_processor = True  # type: ignore[attr-defined]  # our mark, which vLLM does not declare

    @classmethod
    def validate_params(cls, sampling_params: SamplingParams) -> None:
        """Refuse an invalid request before it reaches the engine.

        Raises:
            ValueError: an invalid request, explained in one line; vLLM answers with HTTP 400.
        """
        settings = {name: getattr(sampling_params, name, None) for name in SETTINGS}
        try:
            checked_request(sampling_params.extra_args, settings)
        except UserError as error:
            raise ValueError(str(error)) from None

    def is_argmax_invariant(self) -> bool:
        """V1: whether greedy sampling may skip this processor; always False."""
        return False

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        """V1: apply added, removed and moved requests, and the tokens sampled since the last step."""
        if batch_update is not None:
            for slot in batch_update.removed:
                self._clear(slot)
            for slot, params, prompt, output in batch_update.added:
                self._clear(slot)
                self._start(slot, params, prompt or [], output)
            for source, target, direction in batch_update.moved:
                swap = direction == MoveDirectionality.SWAP
                self._slots.move(source, target, swap)
                moved, other = self._outputs.pop(source, None), self._outputs.pop(target, None)
                if moved is not None:
                    self._outputs[target] = moved
                if swap and other is not None:
                    self._outputs[source] = other
        self._read_outputs()

    def add_request(self, req_idx: int, sampling_params: SamplingParams) -> bool:
        """V2: write a request into its slot; returns whether the processor acts on it."""
        self._clear(req_idx)
        return self._place(req_idx, sampling_params)

    def apply(self, logits: torch.Tensor, ctx: LogitsContext | None = None) -> torch.Tensor:
        """Mask the rows of constrained requests.

        Args:
            logits: float32 [rows, V], changed in place.
            ctx: V2's layout of the batch; None with V1, where row i belongs to slot i.

        Returns:
            `logits`.
        """
        if self._is_duplicate or not (self._slots.owner != UNCONSTRAINED).any():
            return logits
        if self._has_placeholders:
            self._read_outputs()
        slots = np.arange(len(logits)) if ctx is None else _slots_of_rows(ctx, len(logits))
        owner = self._slots.owner[slots]
        for index in np.unique(owner[owner != UNCONSTRAINED]).tolist():
            rows = np.flatnonzero(owner == index)
            try:
                self._constrain_rows(logits, index, rows, slots[rows], ctx)
            except Exception:
                # An error here must not stop the engine, which serves other requests too; and no row may stay
                # unconstrained.
                _log.exception(
                    "llmrec: %d requests end here: they could not be constrained to the catalogue", len(rows)
                )
                self._close(logits, rows, slots[rows])
        return logits

    def _constrain_rows(
        self,
        logits: torch.Tensor,
        owner: int,
        rows: npt.NDArray[np.int64],
        slots: npt.NDArray[np.int64],
        ctx: LogitsContext | None,
    ) -> None:
        """Mask the rows of the requests of one owner."""
        self._log_dead_prefixes()
        if owner == END_ONLY:
            self._close(logits, rows, slots)
            return
        if owner not in self._on_device:
            self._on_device[owner] = self._slots.catalogues[owner].to(self._device)
        catalogue = self._on_device[owner]
        end = self._to_device(self._slots.end[slots])
        if ctx is None:
            tokens = self._to_device(self._slots.tokens[slots])
            count = self._to_device(self._slots.count[slots])
        else:
            tokens, count = self._gather(self._to_device(rows), slots, catalogue.length, ctx)
        index = None if len(rows) == len(logits) else self._to_device(rows)
        part = logits if index is None else logits[index]
        lists = self._slots.row_lists(slots, len(catalogue.items), self._device)
        dead = constrain(part, catalogue, Prefixes(tokens, count, end), lists)
        if index is not None:
            logits[index] = part
        # A prompt that has been processed only in part has no prefix yet, and vLLM discards its samples.
        self._reports.append(
            self._to_host(dead & (count >= self._to_device(self._slots.depth[slots])), tokens, count)
        )
        if self._device.type == "cpu":
            self._log_dead_prefixes()

    def _start(self, slot: int, params: SamplingParams, prompt: list[int], output: list[int]) -> None:
        """V1: write a request into a slot; `output` is vLLM's own list, which grows with each sampled token."""
        if not self._place(slot, params) or self._slots.owner[slot] == END_ONLY:
            return
        depth = int(self._slots.depth[slot])
        if len(prompt) < depth:
            _log.warning("llmrec: a request ends here: its prompt is shorter than %s=%d", DEPTH, depth)
            self._slots.owner[slot] = END_ONLY
            return
        self._slots.write(slot, 0, prompt[len(prompt) - depth :])
        self._outputs[slot] = output

    def _read_outputs(self) -> None:
        """V1: store new tokens. Asynchronous scheduling leaves placeholders, which are filled just before `apply`."""
        self._has_placeholders = False
        for slot, output in self._outputs.items():
            self._has_placeholders |= bool(output) and output[-1] == _PLACEHOLDER
            self._slots.write(slot, int(self._slots.depth[slot]), output)

    def _gather(
        self, rows: torch.Tensor, slots: npt.NDArray[np.int64], length: int, ctx: LogitsContext
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """V2: SID tokens and their number, from the runner's buffers; draft tokens are only in this step's inputs."""
        start = self._to_device(self._states.prompt_len.np[slots] - self._slots.depth[slots])
        place = start.unsqueeze(1) + torch.arange(length, device=self._device)
        position = ctx.pos[rows].unsqueeze(1)
        distance = position - place
        is_input = (distance >= 0) & (distance <= ctx.expanded_local_pos[rows].unsqueeze(1))
        inputs = ctx.input_ids[(rows.unsqueeze(1) - distance).clamp(0, len(ctx.input_ids) - 1)]
        stored = self._states.all_token_ids.gpu
        stored = stored[self._to_device(slots).unsqueeze(1), place.clamp(0, stored.shape[1] - 1)]
        tokens = torch.where(is_input, inputs.long(), stored.long()).masked_fill_(place < 0, -1)
        return tokens, (position.squeeze(1) + 1 - start).long()

    def _place(self, slot: int, params: SamplingParams) -> bool:
        """Write a request into its slot if it has our keys; a request that cannot be read may only end.

        Returns whether the request has our keys.
        """
        try:
            request = read_request(params.extra_args)
        except Exception as error:
            # The request passed `validate_params`, so the fault is ours: end this request, not the engine.
            _log.warning("llmrec: a request ends here: %s", error)
            self._slots.owner[slot] = END_ONLY
            self._slots.end[slot] = self._end
            return True
        if request is None:
            return False
        end = params.eos_token_id
        self._slots.put(slot, request, self._end if end is None else end)
        return True

    def _clear(self, slot: int) -> None:
        self._slots.owner[slot] = UNCONSTRAINED
        self._outputs.pop(slot, None)

    def _close(self, logits: torch.Tensor, rows: npt.NDArray[np.int64], slots: npt.NDArray[np.int64]) -> None:
        """Allow only the end token in these rows."""
        index = self._to_device(rows)
        logits[index] = -torch.inf
        logits[index, self._to_device(self._slots.end[slots])] = 0.0

    def _to_device(self, array: npt.NDArray[np.int64]) -> torch.Tensor:
        return torch.from_numpy(array).to(self._device, non_blocking=True)

    def _to_host(self, dead: torch.Tensor, tokens: torch.Tensor, count: torch.Tensor) -> _Report:
        """Start to copy a report to the host, without waiting for the device."""
        if dead.device.type == "cpu":
            return _Report(dead, tokens, count)
        dead, tokens, count = (part.to("cpu", non_blocking=True) for part in (dead, tokens, count))
        ready = torch.Event(self._device)
        ready.record()
        return _Report(dead, tokens, count, ready)

    def _log_dead_prefixes(self) -> None:
        """Log the dead prefixes whose copies are complete, one line each."""
        while self._reports and (self._reports[0].ready is None or self._reports[0].ready.query()):
            report = self._reports.pop(0)
            for row in report.dead.nonzero().flatten().tolist():
                prefix = report.tokens[row, : int(report.count[row])].tolist()
                _log.warning("llmrec: a request ends here: no allowed item is under its prefix %s", prefix)


def _slots_of_rows(ctx: LogitsContext, rows: int) -> npt.NDArray[np.int64]:
    """Slot of each row of V2's logits.

    Only speculative decoding, with several rows a request, has to copy from the device.
    """
    if rows == len(ctx.idx_mapping_np):
        return ctx.idx_mapping_np.astype(np.int64)
    slots: npt.NDArray[np.int64] = ctx.expanded_idx_mapping.cpu().numpy().astype(np.int64)
    return slots


def _end_token(vllm_config: VllmConfig) -> int:
    """The model's end token, for requests that do not name one."""
    ids = getattr(vllm_config.model_config.hf_text_config, "eos_token_id", None)
    first = ids[0] if isinstance(ids, list) and ids else ids
    return int(first) if isinstance(first, int) else 0
