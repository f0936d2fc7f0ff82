"""Files of weights: only the right ones get in, and nothing in them is run."""

from __future__ import annotations

import argparse
import hashlib
import os
import pickle
import shlex
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from filelock import FileLock

from lib.core.errors import UserError
from lib.generalists import create_generalist, registry
from lib.generalists.entries import WeightsFile
from lib.generalists.weights import hashes
from lib.generalists.weights.hashes import Digest, digest_of, weights_hash
from lib.generalists.weights.intake import import_weights, verify_weights
from lib.generalists.weights.state_dicts import load_weights
from official_weights import write_official
from tinymodel import official, random_state, register
from weight_contents import content


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


class Trap:
    """Runs code when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.mark),)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "weights"


@pytest.mark.parametrize("layout", ["flat", "model", "model_state_dict"])
def test_an_imported_file_is_used(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, layout: str) -> None:
    entry = register(monkeypatch, layout)  # type: ignore[arg-type]
    source = official(tmp_path / "brought.pt", 3, layout)  # type: ignore[arg-type]
    path = import_weights(entry, source, folder)
    assert path == folder / "tiny.pt"
    assert path.read_bytes() == source.read_bytes()
    assert content(folder) == ["tiny.pt", "tiny.pt.json"]
    assert weights_hash(entry, folder) == sha256(source)
    model = create_generalist("tiny", weights=folder)
    torch.testing.assert_close(model.weights, random_state("tiny", 3)["scale"])  # type: ignore[attr-defined]


def test_files_that_cannot_be_recorded_are_read_once_each(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.mkdir()
    entries = [replace(register(monkeypatch, name=name), name=name) for name in ("one.pt", "two.pt")]
    for seed, entry in enumerate(entries):
        official(folder / entry.name, seed)
    read: list[str] = []

    def count(path: Path, weights: WeightsFile) -> Digest:
        read.append(path.name)
        return digest_of(path, weights)

    monkeypatch.setattr(hashes, "digest_of", count)
    for _ in range(3):
        found = [weights_hash(entry, folder) for entry in entries]
        assert found == [sha256(folder / name) for name in ("one.pt", "two.pt")]
    assert read == ["one.pt", "two.pt"]


def test_a_missing_file_tells_the_commands(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch, url="https://example.org/tiny.pt")
    with pytest.raises(UserError) as error:
        create_generalist("tiny", weights=folder)
    assert error.value.status == 409
    main = shlex.join([sys.executable, str(Path(registry.__file__).resolve().parents[2] / "main.py")])
    assert f"{main} weights fetch tiny --folder {shlex.quote(str(folder))}" in str(error.value)
    assert f"weights import tiny tiny.pt --folder {folder}" in str(error.value)
    assert "https://example.org/tiny" in str(error.value)
    register(monkeypatch)
    with pytest.raises(UserError, match="by hand") as error:
        create_generalist("tiny", weights=folder)
    assert "fetch tiny" not in str(error.value)


def test_a_file_that_cannot_be_used_is_refused_and_leaves_nothing(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = official(tmp_path / "good.pt")
    mark = tmp_path / "mark"
    bad = {name: tmp_path / f"{name}.pt" for name in ("code", "cut", "other", "key", "page", "empty", "list")}
    torch.save({"model": random_state("tiny", 0), "extra": Trap(mark)}, bad["code"])
    bad["cut"].write_bytes(good.read_bytes()[:-200])
    write_official({"scale": torch.rand(5)}, bad["other"], "model")
    write_official(random_state("tiny", 0), bad["key"], "flat")
    bad["page"].write_text("<!doctype html><title>Log in</title>")
    bad["empty"].write_bytes(b"")
    torch.save({"model": [1, 2]}, bad["list"])
    texts = {
        "code": "could run code",
        "cut": "damaged, cut short",
        "other": "does not fit tiny",
        "key": "no part 'model' .found: scale",
        "page": "no file of weights",
        "empty": "no file of weights",
        "list": "something else .found: list",
    }
    entry = register(monkeypatch)
    for name, text in texts.items():
        with pytest.raises(UserError, match=text) as error:
            import_weights(entry, bad[name], folder)
        assert error.value.status == 422, name
        assert content(folder) == [], name
        # The same by hand, without our command.
        (folder / "tiny.pt").write_bytes(bad[name].read_bytes())
        with pytest.raises(UserError, match=text):
            create_generalist("tiny", weights=folder)
        for file in folder.iterdir():
            file.unlink()
    assert not mark.exists()
    with pytest.raises(UserError, match="no file"):
        import_weights(entry, tmp_path / "none.pt", folder)


def test_code_in_an_old_pickle_is_not_run(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mark = tmp_path / "mark"
    (tmp_path / "old.pt").write_bytes(pickle.dumps({"model": Trap(mark)}, protocol=2))
    with pytest.raises(UserError):
        import_weights(register(monkeypatch), tmp_path / "old.pt", folder)
    assert not mark.exists()
    assert content(folder) == []


def test_options_of_a_training_in_the_file_do_no_harm(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = {"model": random_state("tiny", 0), "epoch": 3, "args": argparse.Namespace(lr=0.1, device="cuda")}
    torch.save(training, tmp_path / "training.pt")
    entry = register(monkeypatch)
    import_weights(entry, tmp_path / "training.pt", folder)
    assert set(load_weights(entry, folder)) == {"scale"}


@pytest.mark.parametrize("kind", ["sha256", "md5", "size"])
def test_another_file_than_the_published_one_is_refused(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    good, other = official(tmp_path / "good.pt", 0), official(tmp_path / "other.pt", 1)
    if kind == "size":
        entry = register(monkeypatch, size=good.stat().st_size + 1)
        wrong = good
    else:
        entry = register(monkeypatch, **{kind: hashlib.new(kind, good.read_bytes()).hexdigest()})  # type: ignore[arg-type]
        import_weights(entry, good, folder)
        wrong = other
    before = content(folder)
    with pytest.raises(UserError, match="not the official file of tiny") as error:
        import_weights(entry, wrong, folder)
    assert error.value.status == 422
    assert content(folder) == before
    if before:
        (folder / "tiny.pt").write_bytes(other.read_bytes())
        with pytest.raises(UserError, match="not the official file of tiny"):
            create_generalist("tiny", weights=folder)
        with pytest.raises(UserError, match="not the official file of tiny"):
            verify_weights(entry, folder)
    # Own weights are welcome when one says so; then they are the ones that must not change.
    import_weights(entry, wrong, folder, unofficial=True)
    assert weights_hash(entry, folder) == sha256(wrong)
    verify_weights(entry, folder)
    if kind != "size":
        official(folder / "tiny.pt", 2)
        with pytest.raises(UserError, match="not the official file"):
            create_generalist("tiny", weights=folder)


def test_the_first_file_is_remembered_where_no_hash_is_published(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = official(tmp_path / "first.pt", 0), official(tmp_path / "second.pt", 1)
    entry = register(monkeypatch)
    import_weights(entry, first, folder)
    with pytest.raises(UserError, match="another one than before"):
        import_weights(entry, second, folder)
    assert (folder / "tiny.pt").read_bytes() == first.read_bytes()
    # Nor may it change behind our back, even after it was away.
    (folder / "tiny.pt").unlink()
    (folder / "tiny.pt").write_bytes(second.read_bytes())
    with pytest.raises(UserError, match="another one than before"):
        create_generalist("tiny", weights=folder)
    import_weights(entry, second, folder, unofficial=True)
    assert weights_hash(entry, folder) == sha256(second)


def test_a_file_put_there_by_hand_is_taken_and_remembered(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = register(monkeypatch)
    official(folder / "tiny.pt", 0)
    first = weights_hash(entry, folder)
    create_generalist("tiny", weights=folder)
    official(folder / "tiny.pt", 1)
    with pytest.raises(UserError, match=first):
        weights_hash(entry, folder)
    # The same content again is fine.
    official(folder / "tiny.pt", 0)
    assert weights_hash(entry, folder) == first


def test_half_a_copy_is_not_taken_for_the_first_one(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    register(monkeypatch)
    whole = official(tmp_path / "tiny.pt").read_bytes()
    folder.mkdir(exist_ok=True)
    (folder / "tiny.pt").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="damaged"):
        create_generalist("tiny", weights=folder)
    (folder / "tiny.pt").write_bytes(whole)
    assert create_generalist("tiny", weights=folder).name == "tiny"


def test_a_damaged_part_of_an_archive_is_noticed(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = official(tmp_path / "tiny.pt")
    data = bytearray(source.read_bytes())
    at = bytes(data).index(random_state("tiny", 0)["scale"].numpy().tobytes())
    data[at] ^= 1
    source.write_bytes(data)
    with pytest.raises(UserError, match="damaged"):
        import_weights(register(monkeypatch), source, folder)
    assert content(folder) == []


def test_two_at_a_time_are_refused(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.mkdir()
    entry, source = register(monkeypatch), official(tmp_path / "tiny.pt")
    with FileLock(folder / ".lock"), pytest.raises(UserError, match="Another fetch or import"):
        import_weights(entry, source, folder)
    import_weights(entry, source, folder)


def test_a_full_disk_is_said_before_the_copy(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry, source = register(monkeypatch), official(tmp_path / "tiny.pt")
    monkeypatch.setattr("shutil.disk_usage", lambda path: argparse.Namespace(free=10))
    with pytest.raises(UserError, match="are free") as error:
        import_weights(entry, source, folder)
    assert error.value.status == 507
    assert content(folder) == []
