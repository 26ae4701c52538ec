from __future__ import annotations

import subprocess
import sys

import pytest

from groundwire.batch.appended import Appended


def test_what_is_appended_is_read_back_and_grows_what_was_there(tmp_path):
    path = tmp_path / "file"
    file = Appended(path)
    assert (file.append(b"one\n"), file.append(b"two\n")) == (0, 4)
    file.close()
    file = Appended(path)
    assert file.append(b"three") == 8
    file.sync()
    assert file.read(4, 4) == b"two\n"
    assert file.read(8, 100) == b"three"
    assert list(file.lines()) == [b"one\n", b"two\n", b"three"]
    file.cut(4)
    assert (file.size, file.append(b"2\n")) == (4, 4)
    assert path.read_bytes() == b"one\n2\n"
    file.close()


def test_a_file_is_begun_anew_or_must_be_new(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(FileExistsError):
        Appended(path, new=True)
    assert path.read_text() == "old"
    Appended(path, fresh=True).close()
    assert path.read_text() == ""


def test_what_does_not_fit_is_cut_off_again(tmp_path):
    """In a process of its own, where files cannot grow beyond 10 bytes."""
    code = (
        "import resource, sys\n"
        "from pathlib import Path\n"
        "from groundwire.batch.appended import Appended\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (10, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))\n"
        "file = Appended(Path(sys.argv[1]))\n"
        "file.append(b'123456')\n"
        "try:\n"
        "    file.append(b'123456')\n"
        "except OSError:\n"
        "    print(file.size)\n"
    )
    path = tmp_path / "file"
    found = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    assert found.stdout == "6\n"
    assert path.read_bytes() == b"123456"
