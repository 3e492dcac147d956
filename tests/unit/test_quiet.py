"""What libraries print is turned off by environment defaults; what the user has set stays."""

import os
import subprocess
import sys

import pytest

from llmrec import quiet
from llmrec.cli import main


@pytest.mark.parametrize("is_debug", [False, True])
def test_processes_that_a_library_starts_are_as_quiet_as_this_one(is_debug):
    child = "import warnings; warnings.warn('There appear to be 3 leaked objects to clean up')"
    start = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    code = f"from llmrec.quiet import quieten; quieten(); {start}"
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONWARNINGS"}
    variables = inherited | ({"LLMREC_DEBUG": "1"} if is_debug else {})
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=variables)
    assert done.returncode == 0 and ("leaked objects" in done.stderr) == is_debug


@pytest.mark.parametrize("is_debug", [False, True])
def test_a_spawned_process_is_quiet_before_a_library_has_set_up_its_logging(is_debug, tmp_path):
    """As vLLM's engine: it logs while it is imported, when only Python's own handler is there."""
    script = tmp_path / "llmrec"
    script.write_text(
        "import logging, multiprocessing\n"
        "from llmrec.cli import main\n"
        "def work():\n"
        "    logging.getLogger('vllm.triton_utils.importing').warning('Disabling Triton.')\n"
        "    logging.getLogger('other').warning('still seen')\n"
        "if __name__ == '__main__':\n"
        "    process = multiprocessing.get_context('spawn').Process(target=work)\n"
        "    process.start()\n"
        "    process.join()\n"
    )
    variables = dict(os.environ) | ({"LLMREC_DEBUG": "1"} if is_debug else {})
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, env=variables)
    assert done.returncode == 0 and "still seen" in done.stderr, done.stderr
    assert ("Disabling Triton" in done.stderr) == is_debug


@pytest.mark.parametrize(("module", "is_hidden"), [("triton", True), ("other", False)])
def test_leaks_that_a_library_lists_when_python_has_ended_are_hidden_and_nothing_before(module, is_hidden):
    """`malloc_stats` of the C library stands for it: it writes to stderr, and needs no interpreter."""
    code = (
        "import atexit, ctypes, sys, types; from llmrec.quiet import quieten; quieten(); quieten()\n"
        f"sys.modules[{module!r}] = types.ModuleType({module!r})\n"
        "library = ctypes.CDLL(None)\n"
        "ctypes.pythonapi.Py_AtExit(ctypes.cast(library.malloc_stats, ctypes.c_void_p))\n"
        "atexit.register(lambda: print('still seen', file=sys.stderr))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0 and "still seen" in done.stderr
    assert ("Arena" not in done.stderr) == is_hidden


@pytest.mark.skipif(sys.platform != "linux", reason="torch asks for large pages on Linux alone")
@pytest.mark.parametrize(("setting", "is_large"), [({}, True), ({"THP_MEM_ALLOC_ENABLE": "0"}, False)])
def test_the_command_line_lets_torch_use_large_pages_unless_the_user_does_not(setting, is_large):
    """Torch lets a tensor for which it asks for large pages start where a page does, and others 64 bytes behind."""
    code = (
        "from llmrec.cli import main; main(['ls']); import torch\n"
        "kept = [torch.empty(1 << 20) for _ in range(3)]\n"
        "print(all(one.data_ptr() % 4096 == 0 for one in kept))"
    )
    inherited = {name: value for name, value in os.environ.items() if name != "THP_MEM_ALLOC_ENABLE"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=inherited | setting
    )
    assert done.stdout.splitlines()[-1] == str(is_large)


def test_environment_variables_of_the_user_have_priority(monkeypatch):
    for name in quiet.DEFAULTS:  # so that what the command sets ends with the test
        monkeypatch.setenv(name, os.environ.get(name, ""))
    monkeypatch.setenv("TRANSFORMERS_VERBOSITY", "info")
    monkeypatch.delenv("TOKENIZERS_PARALLELISM")
    assert main(["ls"]) == 0
    assert os.environ["TRANSFORMERS_VERBOSITY"] == "info"
    assert os.environ["TOKENIZERS_PARALLELISM"] == "false"
