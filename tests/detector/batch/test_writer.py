from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from groundwire.batch.paths import partial_path
from groundwire.batch.writer import PartialWriter, check_target
from groundwire.errors import GroundwireError, InputError


@pytest.fixture
def target(tmp_path):
    return tmp_path / "out.jsonl"


def written(path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_the_name_is_given_only_when_finished(target):
    with PartialWriter(target) as writer:
        writer.write({"id": "größe 🦔"})
        writer.sync()
        assert not target.exists()
        assert written(partial_path(target)) == [{"id": "größe 🦔"}]
        writer.finish()
    assert written(target) == [{"id": "größe 🦔"}]
    assert not partial_path(target).exists()
    assert writer.rows == 1


def write_then_fail(target, error: BaseException, *, rows: int) -> None:
    with PartialWriter(target) as writer:
        for i in range(rows):
            writer.write({"id": i})
        raise error


@pytest.mark.parametrize("error", [RuntimeError("boom"), KeyboardInterrupt()])
def test_an_error_keeps_the_partial_and_says_so(target, error):
    with pytest.raises(type(error)) as caught:
        write_then_fail(target, error, rows=2)
    assert not target.exists()
    assert len(written(partial_path(target))) == 2
    assert caught.value.__notes__ == [f"2 finished rows are kept in {str(partial_path(target))!r}."]


def test_an_error_before_the_first_row_leaves_nothing(target):
    with pytest.raises(RuntimeError):
        write_then_fail(target, RuntimeError("boom"), rows=0)
    assert list(target.parent.iterdir()) == []


def test_rows_survive_kill_9(target):
    code = (
        "import os, signal, sys\n"
        "from groundwire.batch.writer import PartialWriter\n"
        "with PartialWriter(sys.argv[1]) as writer:\n"
        "    writer.write({'id': 1})\n"
        "    writer.write({'id': 2})\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    ended = subprocess.run([sys.executable, "-c", code, str(target)], check=False)
    assert ended.returncode == -signal.SIGKILL
    assert not target.exists()
    assert written(partial_path(target)) == [{"id": 1}, {"id": 2}]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_disk_is_a_clear_error(target):
    partial_path(target).symlink_to("/dev/full")
    full = pytest.raises(GroundwireError, match="No space left on device; no row was written")
    with full as caught, PartialWriter(target, overwrite=True) as writer:
        writer.write({"id": 1})
    assert "free disk space" in caught.value.remedy
    assert not hasattr(caught.value, "__notes__")
    assert not target.exists()


def test_a_row_that_did_not_fit_is_cut_off_again(target):
    """In a process of its own, where files cannot grow beyond 100 bytes: the limit would hit pytest's output too."""
    code = (
        "import resource, sys\n"
        "from groundwire.batch.writer import PartialWriter\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))\n"
        "with PartialWriter(sys.argv[1]) as writer:\n"
        "    while True:\n"
        "        writer.write({'id': 'x' * 30})\n"
    )
    ended = subprocess.run([sys.executable, "-c", code, str(target)], stderr=subprocess.PIPE, text=True, check=False)
    assert "2 finished rows are kept in" in ended.stderr
    assert written(partial_path(target)) == [{"id": "x" * 30}] * 2


def test_nothing_is_overwritten_unless_told(target):
    for path in (target, partial_path(target)):
        path.write_text("precious")
        with pytest.raises(InputError, match="exists"):
            check_target(target, source="in.jsonl")
        check_target(target, source="in.jsonl", overwrite=True)
        path.unlink()
    partial_path(target).write_text("precious")
    with pytest.raises(InputError, match="did not finish"):
        PartialWriter(target).__enter__()
    assert partial_path(target).read_text() == "precious"


def test_overwriting_keeps_the_old_file_until_the_new_one_is_complete(target):
    target.write_text("old")
    with PartialWriter(target, overwrite=True) as writer:
        writer.write({"id": 1})
        assert target.read_text() == "old"
        writer.finish()
    assert written(target) == [{"id": 1}]


def test_the_input_is_never_overwritten(target):
    for source in (target, partial_path(target)):
        source.write_text("precious")
        with pytest.raises(InputError, match="its own input"):
            check_target(target, source=source, overwrite=True)
        source.unlink()


def test_folders_and_devices_are_refused(tmp_path):
    for path, message in [
        (tmp_path, "not a regular file"),
        ("/dev/null", "not a regular file"),
        (tmp_path / "no" / "out.jsonl", "no folder"),
    ]:
        with pytest.raises(InputError, match=message):
            check_target(path, source="in.jsonl", overwrite=True)


def test_a_folder_that_cannot_be_written_is_a_clear_error(tmp_path):
    with pytest.raises(GroundwireError, match="cannot write"):
        PartialWriter(tmp_path / "no" / "out.jsonl").__enter__()
