"""Silences what other libraries print in an ordinary run; errors and our own progress bars stay."""

from __future__ import annotations

import atexit
import logging
import os
import sys
import warnings
from functools import cache

DEFAULTS = {
    "DO_NOT_TRACK": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "MPLBACKEND": "Agg",
    "PYTHONWARNINGS": "ignore",
    "TOKENIZERS_PARALLELISM": "false",
    "TORCH_CPP_LOG_LEVEL": "ERROR",
    "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "TRL_EXPERIMENTAL_SILENCE": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
}
"""Defaults of variables; the user's environment has priority.

Processes that libraries start have these variables alone: engines, and Python's tracker of shared memory, which warns
of leaks when a server has ended. What they log before their logging is set up is silenced by `llmrec.cli`, which such
a process imports first.
"""
LOGGERS = ("bitsandbytes", "torch.distributed.elastic", "transformers.trainer", "vllm")
"""Loggers that warn about optional kernels, missing packages, tied weights, which are stored once, and processes that
are ended because the command is."""


def quieten() -> None:
    """Silence other libraries in this process and its children, unless `LLMREC_DEBUG` is set.

    Call it before they are imported. Where stderr is no terminal, no library draws progress bars.
    """
    if os.environ.get("LLMREC_DEBUG"):
        return
    for name in LOGGERS:
        logging.getLogger(name).setLevel(logging.ERROR)
    for key, value in DEFAULTS.items():
        os.environ.setdefault(key, value)
    if not sys.stderr.isatty():
        os.environ.setdefault("TQDM_DISABLE", "1")
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
    _hide_leaks()


def is_spawned() -> bool:
    """Whether Python's `multiprocessing` has started this process anew, for example as an engine of vLLM."""
    return "--multiprocessing-fork" in sys.orig_argv


LEAKING = "triton"
"""A module, which vLLM imports, that lists dozens of its own objects as leaked when Python has ended."""


@cache
def _hide_leaks() -> None:
    """Close stderr after everything else that is done at the end of this process, if `LEAKING` has been imported.

    What is registered first is done last, so messages of all other libraries are still seen.
    """

    def close() -> None:
        if LEAKING in sys.modules:
            sys.stderr.flush()
            nothing = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nothing, 2)

    atexit.register(close)


def hide_loading_bars() -> None:
    """Hide the bars that transformers draws while it reads and writes weights; bars of downloads stay."""
    if os.environ.get("LLMREC_DEBUG"):
        return
    from huggingface_hub.utils import are_progress_bars_disabled, enable_progress_bars
    from transformers.utils import logging as transformers_logging

    were_hidden = are_progress_bars_disabled()
    transformers_logging.disable_progress_bar()
    if not were_hidden:
        enable_progress_bars()
