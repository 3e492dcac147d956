"""A stage's function in several processes."""

import os

import pytest
import torch

from llmrec.artifacts import StageContext, Workers
from llmrec.errors import UserError
from llmrec.train.launch import is_main_process, run_in_every_process, run_in_processes


def rank_of(context):
    return int(os.environ["RANK"]), context.workers.count


def fail_alone(context):
    """One process has no memory left while the other waits for it."""
    torch.distributed.init_process_group("gloo")
    if os.environ["RANK"] == "1":
        raise UserError("sft: out of memory; try less")
    torch.distributed.barrier()


def share(context):
    return run_in_every_process(lambda process, processes: (process, processes, is_main_process()))


def refuse_in_the_second(process, processes):
    if process == 1:
        raise UserError("prompts: nothing to learn from")


def fail_together(context):
    run_in_every_process(refuse_in_the_second)


@pytest.fixture
def context(tmp_path):
    return StageContext(None, tmp_path, tmp_path, tmp_path, Workers(2))


def test_the_result_is_that_of_the_first_process(context):
    assert run_in_processes(rank_of, context) == (0, 2)


def test_an_error_of_one_process_ends_all_and_is_raised(context, capfd):
    with pytest.raises(UserError, match="out of memory; try less"):
        run_in_processes(fail_alone, context)
    assert "Traceback" not in capfd.readouterr().err


def test_every_process_has_a_share_and_learns_the_results_of_all(context):
    assert run_in_processes(share, context) == [(0, 2, True), (1, 2, False)]
    assert share(context) == [(0, 1, True)], "one process does all"


def test_an_error_in_a_share_is_that_of_all(context):
    with pytest.raises(UserError, match="nothing to learn from"):
        run_in_processes(fail_together, context)
