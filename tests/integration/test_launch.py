"""A stage's function in several processes."""

import os

import pytest
import torch

from llmrec.artifacts import StageContext, Workers
from llmrec.errors import UserError
from llmrec.train.launch import run_in_processes


def rank_of(context):
    return int(os.environ["RANK"]), context.workers.count


def fail_alone(context):
    """One process has no memory left while the other waits for it."""
    torch.distributed.init_process_group("gloo")
    if os.environ["RANK"] == "1":
        raise UserError("sft: out of memory; try less")
    torch.distributed.barrier()


@pytest.fixture
def context(tmp_path):
    return StageContext(None, tmp_path, tmp_path, tmp_path, Workers(2))


def test_the_result_is_that_of_the_first_process(context):
    assert run_in_processes(rank_of, context) == (0, 2)


def test_an_error_of_one_process_ends_all_and_is_raised(context, capfd):
    with pytest.raises(UserError, match="out of memory; try less"):
        run_in_processes(fail_alone, context)
    assert "Traceback" not in capfd.readouterr().err
