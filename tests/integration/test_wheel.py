"""What is installed from a built wheel works without the clone."""

import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The scripts of a new environment with the wheel in it; its dependencies are those of this environment.

    A path file does not run the path files of the folder that it names, so this environment's llmrec stays out.
    """
    folder = tmp_path_factory.mktemp("wheel")
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--wheel-dir",
        str(folder),
        str(ROOT),
    ]
    built = subprocess.run(command, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    (wheel,) = folder.glob("llmrec-*.whl")
    venv.create(folder / "venv", with_pip=True)
    python = folder / "venv/bin/python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--no-deps", str(wheel)], check=True)
    site = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.strip()
    Path(site, "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python.parent


def call(installed, folder, *command):
    """Run a script of the environment in an empty folder, without the variables that would lead back to the clone."""
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "LLMREC"))
    }
    environment |= {"LLMREC_HOME": str(folder / "home"), "LLMREC_RUNS": str(folder / "runs")}
    done = subprocess.run(
        [installed / command[0], *command[1:]], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


@pytest.mark.slow
def test_a_wheel_holds_the_package_and_what_users_edit(installed, tmp_path):
    where = call(installed, tmp_path, "python", "-c", "import llmrec; print(llmrec.__file__)")
    assert Path(where.strip()).is_relative_to(installed.parent)
    listed = call(installed, tmp_path, "llmrec", "ls")
    for folder in ("recipes", "prompts", "data_prep", "eval/suites"):
        for file in (ROOT / folder).glob("*.yaml"):
            assert file.stem in listed, file


@pytest.mark.slow
def test_quickstart_is_planned_from_a_wheel(installed, tmp_path):
    planned = call(installed, tmp_path, "llmrec", "run", "quickstart", "--dry-run")
    assert "quickstart" in planned and "sft" in planned
    assert not (tmp_path / "runs").exists() and not (tmp_path / "home").exists()
