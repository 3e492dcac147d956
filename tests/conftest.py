"""Session-wide: one small dataset, trained once through the real command line."""

import os
import shutil
from pathlib import Path

import pytest
import shop as small_shop
from hypothesis import HealthCheck, settings

# Models are tiny here: more threads only wait for each other, badly so on a busy machine.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# A GPU is used only where it is asked for (docs/gpu.md): tests then mean the same on every machine.
ON_GPU = "LLMREC_TEST_DEVICE" in os.environ
if not ON_GPU:
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
# A busy machine is no reason to fail: no test here asserts a time.
settings.register_profile("llmrec", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("llmrec")


def pytest_collection_modifyitems(items):
    """Leave out, on a GPU, what is claimed of CPUs alone."""
    for item in items:
        if ON_GPU and item.get_closest_marker("cpu_alone"):
            item.add_marker(pytest.mark.skip(reason="claimed of CPUs alone"))


def pytest_xdist_auto_num_workers(config):
    """Workers of `-n auto`: one a core, four at most, for a whole suite; none for files that are named."""
    named = [Path(arg.partition("::")[0]).suffix == ".py" for arg in config.args]
    return 0 if all(named) else min(4, len(os.sched_getaffinity(0)))


@pytest.fixture(scope="session")
def shop(tmp_path_factory):
    """The shop's folder with a finished run `shop`, and what `llmrec run` printed there."""
    folder = tmp_path_factory.mktemp("shop")
    small_shop.open_shop(folder)
    return folder, small_shop.run_alone(folder, "run", "recipe.yaml")


@pytest.fixture(scope="session")
def lora(shop):
    """A finished run in LoRA mode on the shop's data and IDs."""
    folder, _ = shop
    done = small_shop.run(folder, "run", "recipe.yaml", "run=lora", "parent=shop", *small_shop.LORA)
    assert done.returncode == 0, done.stderr
    return folder / "runs" / "lora"


@pytest.fixture(scope="session")
def aligned(shop, lora):
    """A finished run with both aligned models on the LoRA run's SFT, and what `llmrec run` printed."""
    folder, _ = shop
    done = small_shop.run(folder, "run", "recipe.yaml", "run=preferred", "parent=lora", *small_shop.ALIGNED)
    assert done.returncode == 0, done.stderr
    return folder / "runs" / "preferred", done


@pytest.fixture(scope="session")
def own(shop):
    """A run in which each item has a code of its own, grown by three items and by two, one of them retired."""
    folder, _ = shop
    options = ["ids.collisions=own_code", "ids.quantizer.levels=1", "sft.max_steps=30", "sft.lr=1e-2"]
    options += ["base.tiny.hidden=64"]
    done = small_shop.run(folder, "sft", "recipe.yaml", "run=own", "parent=shop", *options)
    assert done.returncode == 0, done.stderr
    shutil.copytree(folder / "runs/own", folder / "runs/own-before")
    for names in (small_shop.OWN[:3], small_shop.OWN[3:]):
        done = small_shop.run(folder, "items", "own", *small_shop.write_new_items(folder, names))
        assert done.returncode == 0, done.stderr
    assert f"{small_shop.ITEMS + 5} items can be recommended" in done.stdout
    done = small_shop.run(folder, "items", "own", "--retire", "n4,i3")
    assert done.returncode == 0, done.stderr
    return folder / "runs/own"
