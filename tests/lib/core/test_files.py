"""Files are written whole or not at all."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from lib.core.errors import UserError
from lib.core.files import sha256_of, write_whole
from lib.people import UsersFile
from server.people.log_in import LogIn


def test_a_write_that_breaks_off_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "label.nrrd"
    path.write_text("the old one, whole")

    def breaks_off(name: str) -> None:
        Path(name).write_text("half")
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        write_whole(path, breaks_off)
    assert path.read_text() == "the old one, whole"
    assert list(tmp_path.iterdir()) == [path]
    write_whole(path, lambda name: Path(name).write_text("the new one"))
    assert path.read_text() == "the new one"


def test_a_private_file_is_never_readable_for_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    modes, replace = [], os.replace

    def watched(source: str, target: Path) -> None:
        modes.append(stat.S_IMODE(os.stat(source).st_mode))  # from here on others may open it
        replace(source, target)

    monkeypatch.setattr(os, "replace", watched)
    write_whole(tmp_path / "key", lambda name: Path(name).write_text("secret"), private=True)
    UsersFile(tmp_path / "users").save({})
    LogIn(tmp_path / "users", tmp_path / "login.key")
    assert modes == [0o600] * 3


def test_the_hash_of_a_file_is_that_of_its_content(tmp_path: Path) -> None:
    (tmp_path / "abc").write_bytes(b"abc")  # FIPS 180-2, appendix B.1
    assert sha256_of(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


@pytest.mark.parametrize(
    "error",
    [
        OSError(28, "No space left on device"),
        OSError("400000 requested and 131056 written"),  # numpy.save
        RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 704 vs 598"),  # torch.save
    ],
)
def test_a_full_disk_is_told_whoever_writes(tmp_path: Path, error: Exception) -> None:
    def write(name: str) -> None:
        raise error

    with pytest.raises(UserError, match=r"No space left in .*Free some space there") as refused:
        write_whole(tmp_path / "file", write)
    assert refused.value.status == 507
    with pytest.raises(RuntimeError, match="another"):
        write_whole(tmp_path / "file", lambda name: (_ for _ in ()).throw(RuntimeError("another")))
    assert list(tmp_path.iterdir()) == []
