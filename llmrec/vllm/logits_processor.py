"""The plugin that holds vLLM's sampling to a catalogue, for the requests that ask for it.

One class for both of vLLM's interfaces: V1 hands over batch updates and the sampled tokens as lists, V2 request
slots and the tokens as device buffers. Either way each step finds the rows' prefixes, walks them down the trie
and masks the whole batch at once. It is loaded into every engine of the environment, and does nothing to a
request without `llmrec_catalogue`.
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
from llmrec.vllm.constraint import ConstrainedRequest, RowLists, constrain, read_request

if TYPE_CHECKING:
    import numpy.typing as npt
    from vllm import SamplingParams
    from vllm.config import VllmConfig
    from vllm.v1.sample.logits_processor.interface import BatchUpdate
    from vllm.v1.worker.gpu.sample.logits_processor.interface import LogitsContext, LogitsProcRequestState

    from llmrec.catalogue.catalogue import Catalogue

UNCONSTRAINED, END_ONLY = -1, -2
"""Owners of slots whose request is not ours, and of those that may only end."""
_PLACEHOLDER = -1
_NOTHING = np.zeros(0, np.int64)
_log = logging.getLogger(__name__)


class Slots:
    """The requests of a batch, one a slot, as arrays.

    Attributes:
        catalogues: those that requests have named so far.
        owner: int64 [slots], index into `catalogues`, `UNCONSTRAINED` or `END_ONLY`.
        depth: int64 [slots], SID tokens at the prompt's end.
        end: int64 [slots], the token that ends the request.
        is_allow_list: bool [slots], whether the slot's list names what is allowed.
        lists: for each slot, int64 [n], sorted items.
        tokens: int64 [slots, ≥ L], V1 alone: the SID tokens so far.
        count: int64 [slots], V1 alone: how many.
    """

    def __init__(self, slots: int) -> None:
        self.catalogues: list[Catalogue] = []
        self.owner = np.full(slots, UNCONSTRAINED)
        self.depth = np.zeros(slots, np.int64)
        self.end = np.zeros(slots, np.int64)
        self.is_allow_list = np.zeros(slots, bool)
        self.lists = [_NOTHING] * slots
        self.tokens = np.zeros((slots, 1), np.int64)
        self.count = np.zeros(slots, np.int64)

    def put(self, slot: int, request: ConstrainedRequest, end: int) -> None:
        """Place a request into a slot, whatever was there."""
        catalogue = request.catalogue
        if not any(catalogue is known for known in self.catalogues):
            self.catalogues.append(catalogue)
        self.owner[slot] = next(i for i, known in enumerate(self.catalogues) if known is catalogue)
        self.depth[slot], self.end[slot] = request.depth, end
        self.is_allow_list[slot], self.lists[slot] = request.is_allow_list, request.items
        missing = catalogue.length - self.tokens.shape[1]
        if missing > 0:
            self.tokens = np.pad(self.tokens, ((0, 0), (0, missing)))

    def write(self, slot: int, start: int, tokens: list[int]) -> None:
        """Note the tokens of a slot's prefix from `start` on; those beyond a whole semantic ID only count."""
        room = self.tokens.shape[1] - start
        self.tokens[slot, start : start + len(tokens)] = tokens[: max(0, room)]
        self.count[slot] = start + len(tokens)

    def move(self, source: int, target: int, swap: bool) -> None:
        """Move a slot's request to another, or swap the two."""
        for array in (self.owner, self.depth, self.end, self.is_allow_list, self.tokens, self.count):
            array[[target, source]] = array[[source, target]]
        self.lists[target], self.lists[source] = self.lists[source], self.lists[target]
        if not swap:
            self.owner[source] = UNCONSTRAINED

    def row_lists(self, slots: npt.NDArray[np.int64], items: int, device: torch.device) -> RowLists | None:
        """Allow- and deny-lists of some slots; None where none has one."""
        lists, stride = [self.lists[slot] for slot in slots.tolist()], items + 1
        lengths = [len(row) for row in lists]
        if not any(lengths):
            return None
        keys = np.concatenate(lists) + np.repeat(np.arange(len(slots)) * stride, lengths)
        allow = torch.from_numpy(self.is_allow_list[slots, None]).to(device)
        return RowLists(torch.from_numpy(keys).to(device), allow, stride)


@dataclass
class _Report:
    """Dead prefixes on their way from the device."""

    dead: torch.Tensor
    tokens: torch.Tensor
    count: torch.Tensor
    ready: torch.Event | None = None


class TrieLogitsProcessor(ProcessorV1, ProcessorV2):
    """Holds requests to the catalogue they name (`llmrec.vllm.constraint.read_request` lists the keys).

    With `logprobs_mode="processed_logits"` the returned log-probabilities of legal tokens are those of the
    model's full vocabulary. Speculative decoding: V2 only.

    Args:
        vllm_config: the engine's configuration.
        device_or_states: V1: the device; V2: the runner's request states.
        is_pin_memory: given by V1, not by V2.
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
        # The entry point and `--logits-processors` may both name this class; a second pass would normalise
        # over the allowed tokens.
        self._is_duplicate = getattr(vllm_config, "_llmrec_processor", False)
        vllm_config._llmrec_processor = True  # type: ignore[attr-defined]

    @classmethod
    def validate_params(cls, sampling_params: SamplingParams) -> None:
        """Refuse a wrong request before it reaches the engine.

        Raises:
            ValueError: what is wrong, in one line; vLLM answers HTTP 400.
        """
        try:
            request = read_request(sampling_params.extra_args)
        except UserError as error:
            raise ValueError(str(error)) from None
        if request is not None and sampling_params.ignore_eos:
            raise ValueError("llmrec_catalogue: a request under a catalogue ends; leave out ignore_eos")

    def is_argmax_invariant(self) -> bool:
        """V1: whether greedy sampling may skip this processor; never."""
        return False

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        """V1: follow the requests that come, go and move, and the tokens that were sampled."""
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
        self._follow()

    def add_request(self, req_idx: int, sampling_params: SamplingParams) -> bool:
        """V2: place a request into its slot; whether it is one of ours."""
        self._clear(req_idx)
        return self._place(req_idx, sampling_params)

    def apply(self, logits: torch.Tensor, ctx: LogitsContext | None = None) -> torch.Tensor:
        """Mask the rows of our requests.

        Args:
            logits: float32 [rows, V], changed in place.
            ctx: V2's layout of the batch; V1 gives none, and its rows are the slots.
        """
        if self._is_duplicate or not (self._slots.owner != UNCONSTRAINED).any():
            return logits
        if self._has_placeholders:
            self._follow()
        slots = np.arange(len(logits)) if ctx is None else _slots_of_rows(ctx, len(logits))
        owner = self._slots.owner[slots]
        for which in np.unique(owner[owner != UNCONSTRAINED]).tolist():
            rows = np.flatnonzero(owner == which)
            try:
                self._constrain_rows(logits, which, rows, slots[rows], ctx)
            except Exception:
                # Nothing raised here is worth the engine, which serves everyone; nor may a row fall open.
                _log.exception(
                    "llmrec: %d requests end here: they could not be held to the catalogue", len(rows)
                )
                self._close(logits, rows, slots[rows])
        return logits

    def _constrain_rows(
        self,
        logits: torch.Tensor,
        which: int,
        rows: npt.NDArray[np.int64],
        slots: npt.NDArray[np.int64],
        ctx: LogitsContext | None,
    ) -> None:
        """Mask the rows of one catalogue's requests."""
        self._log_dead_prefixes()
        if which == END_ONLY:
            self._close(logits, rows, slots)
            return
        catalogue = self._on_device.setdefault(which, self._slots.catalogues[which].to(self._device))
        end = self._to_device(self._slots.end[slots])
        if ctx is None:
            tokens, count = (
                self._to_device(self._slots.tokens[slots]),
                self._to_device(self._slots.count[slots]),
            )
        else:
            tokens, count = self._gather(self._to_device(rows), slots, catalogue.length, ctx)
        index = None if len(rows) == len(logits) else self._to_device(rows)
        part = logits if index is None else logits[index]
        lists = self._slots.row_lists(slots, len(catalogue.items), self._device)
        dead = constrain(part, catalogue, Prefixes(tokens, count, end), lists)
        if index is not None:
            logits[index] = part
        # A prompt that is only partly read has no prefix yet, and what is sampled there is thrown away.
        self._reports.append(
            self._to_host(dead & (count >= self._to_device(self._slots.depth[slots])), tokens, count)
        )
        if self._device.type == "cpu":
            self._log_dead_prefixes()

    def _start(self, slot: int, params: SamplingParams, prompt: list[int], output: list[int]) -> None:
        """V1: place a request; `output` is vLLM's own list, which grows with what is sampled."""
        if not self._place(slot, params) or self._slots.owner[slot] == END_ONLY:
            return
        depth = int(self._slots.depth[slot])
        if len(prompt) < depth:
            _log.warning("llmrec: a request ends here: its prompt is shorter than llmrec_depth=%d", depth)
            self._slots.owner[slot] = END_ONLY
            return
        self._slots.write(slot, 0, prompt[len(prompt) - depth :])
        self._outputs[slot] = output

    def _follow(self) -> None:
        """V1: note new tokens. Asynchronous scheduling leaves placeholders, filled in just before `apply`."""
        self._has_placeholders = False
        for slot, output in self._outputs.items():
            self._has_placeholders |= bool(output) and output[-1] == _PLACEHOLDER
            self._slots.write(slot, int(self._slots.depth[slot]), output)

    def _gather(
        self, rows: torch.Tensor, slots: npt.NDArray[np.int64], length: int, ctx: LogitsContext
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """V2: the same from the runner's buffers; draft tokens stand only among this step's inputs."""
        start = self._to_device(self._states.prompt_len.np[slots] - self._slots.depth[slots])
        place = start.unsqueeze(1) + torch.arange(length, device=self._device)
        position = ctx.pos[rows].unsqueeze(1)
        back = position - place
        drafted = (back >= 0) & (back <= ctx.expanded_local_pos[rows].unsqueeze(1))
        fed = ctx.input_ids[(rows.unsqueeze(1) - back).clamp(0, len(ctx.input_ids) - 1)]
        kept = self._states.all_token_ids.gpu
        kept = kept[self._to_device(slots).unsqueeze(1), place.clamp(0, kept.shape[1] - 1)]
        tokens = torch.where(drafted, fed.long(), kept.long()).masked_fill_(place < 0, -1)
        return tokens, (position.squeeze(1) + 1 - start).long()

    def _place(self, slot: int, params: SamplingParams) -> bool:
        """Put a request into its slot if it is ours; one that cannot be read may only end."""
        try:
            request = read_request(params.extra_args)
        except Exception as error:
            # It passed `validate_params`, so what is wrong is ours to bear, and not the engine's.
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
        """Leave these rows nothing but their end token."""
        index = self._to_device(rows)
        logits[index] = -torch.inf
        logits[index, self._to_device(self._slots.end[slots])] = 0.0

    def _to_device(self, array: npt.NDArray[np.int64]) -> torch.Tensor:
        return torch.from_numpy(array).to(self._device, non_blocking=True)

    def _to_host(self, dead: torch.Tensor, tokens: torch.Tensor, count: torch.Tensor) -> _Report:
        """Start the way of a report to the host, without waiting for the device."""
        if dead.device.type == "cpu":
            return _Report(dead, tokens, count)
        dead, tokens, count = (part.to("cpu", non_blocking=True) for part in (dead, tokens, count))
        ready = torch.Event(self._device)
        ready.record()
        return _Report(dead, tokens, count, ready)

    def _log_dead_prefixes(self) -> None:
        """Log the dead prefixes that have arrived, a line each."""
        while self._reports and (self._reports[0].ready is None or self._reports[0].ready.query()):
            report = self._reports.pop(0)
            for row in report.dead.nonzero().flatten().tolist():
                prefix = report.tokens[row, : int(report.count[row])].tolist()
                _log.warning("llmrec: a request ends here: no allowed item is under its prefix %s", prefix)


def _slots_of_rows(ctx: LogitsContext, rows: int) -> npt.NDArray[np.int64]:
    """Slot of each row of V2's logits; only speculative decoding, with several rows a request, asks the device."""
    if rows == len(ctx.idx_mapping_np):
        return ctx.idx_mapping_np.astype(np.int64)
    slots: npt.NDArray[np.int64] = ctx.expanded_idx_mapping.cpu().numpy().astype(np.int64)
    return slots


def _end_token(vllm_config: VllmConfig) -> int:
    """The model's end token, for requests that carry none."""
    found = getattr(vllm_config.model_config.hf_text_config, "eos_token_id", None)
    first = found[0] if isinstance(found, list) and found else found
    return int(first) if isinstance(first, int) else 0
