import pytest

from llmrec.cli import main
from llmrec.commands.start import doctor


@pytest.fixture(autouse=True)
def folders(tmp_path, monkeypatch):
    monkeypatch.setenv("LLMREC_RUNS", str(tmp_path / "runs"))


def test_doctor_finds_no_problem_where_the_tests_run(capsys, monkeypatch):
    monkeypatch.setattr(doctor, "MEMORY_GB", 0)  # the machine may be small
    monkeypatch.setattr(doctor, "DISK_GB", 0)
    assert main(["doctor"]) == 0
    shown = capsys.readouterr().out
    for told in ("python", "cores", "memory", "runs", "downloads", "torch", "no problem found"):
        assert told in shown
    assert "torch" in doctor.constraints()


def test_doctor_names_what_a_small_machine_lacks(capsys, monkeypatch):
    monkeypatch.setattr(doctor, "MEMORY_GB", 10**6)
    monkeypatch.setattr(doctor, "DISK_GB", 10**9)
    assert main(["doctor"]) == 2
    problems = [line for line in capsys.readouterr().out.splitlines() if line.startswith("problem")]
    assert [line for line in problems if "GB of memory: lower sft.batch" in line]
    assert [line for line in problems if "GB free" in line and "LLMREC_RUNS" in line]
