"""The tests of `tests/on_device`, in a process of their own: torch learns of a device before its first gradient."""

import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).parents[1] / "on_device"


def test_everything_on_a_simulated_device_gives_what_the_cpu_gives():
    command = [sys.executable, "-m", "pytest", "-q", str(TESTS), "-p", "no:cacheprovider", "-n", "0"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-4000:]
    assert done.stdout.count(".") > 50 and "[100%]" in done.stdout
