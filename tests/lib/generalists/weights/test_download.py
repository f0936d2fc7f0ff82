"""Downloads from a server that behaves, and from those that do not."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from lib.core.errors import UserError
from lib.generalists.entries import Entry
from lib.generalists.weights import intake
from lib.generalists.weights.download import download
from lib.generalists.weights.intake import fetch_weights
from tinymodel import official, register
from weight_contents import content
from weight_site import Site


def test_fetched_whole(site: Site, entry: Entry, folder: Path) -> None:
    seen: list[tuple[int, int | None]] = []
    path = fetch_weights(entry, folder, progress=lambda done, total: seen.append((done, total)))
    assert path.read_bytes() == site.data
    assert content(folder) == ["tiny.pt", "tiny.pt.json"]
    assert seen[-1] == (len(site.data), len(site.data))
    said: list[str] = []
    fetch_weights(entry, folder, say=said.append)
    assert "is there already" in said[0]
    assert len(site.asked) == 1


def test_a_cut_download_goes_on_where_it_ended(site: Site, entry: Entry, folder: Path) -> None:
    site.mode = "drop"
    with pytest.raises(UserError, match="run the same command again to go on") as error:
        fetch_weights(entry, folder)
    assert error.value.status == 502
    assert content(folder) == ["tiny.pt.part", "tiny.pt.part.json"]
    kept = (folder / "tiny.pt.part").stat().st_size
    assert site.drop_at - 2**16 <= kept <= site.drop_at
    site.mode = "good"
    seen: list[int] = []
    assert fetch_weights(entry, folder, progress=lambda done, _: seen.append(done)).read_bytes() == site.data
    assert site.asked[-1] == (f"bytes={kept}-", '"one"')
    assert seen[0] > kept
    assert content(folder) == ["tiny.pt", "tiny.pt.json"]


def test_a_file_that_changed_meanwhile_is_fetched_anew(site: Site, entry: Entry, folder: Path, tmp_path: Path) -> None:
    site.mode = "drop"
    with pytest.raises(UserError):
        fetch_weights(entry, folder)
    site.mode, site.tag, site.data = "good", '"two"', official(tmp_path / "new.pt", 7).read_bytes()
    assert fetch_weights(entry, folder).read_bytes() == site.data


@pytest.mark.parametrize(("mode", "tag"), [("no-ranges", '"one"'), ("good", None), ("good", 'W/"weak"')])
def test_a_server_that_cannot_vouch_for_the_rest_sends_all_again(
    site: Site, entry: Entry, folder: Path, mode: str, tag: str | None
) -> None:
    site.mode, site.tag = "drop", tag
    with pytest.raises(UserError):
        fetch_weights(entry, folder)
    site.mode = mode
    assert fetch_weights(entry, folder).read_bytes() == site.data


def test_a_known_hash_allows_to_go_on_without_a_tag(
    site: Site, entry: Entry, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = register(monkeypatch, url=site.url, sha256=hashlib.sha256(site.data).hexdigest())
    site.mode, site.tag = "drop", None
    with pytest.raises(UserError):
        fetch_weights(entry, folder)
    kept = (folder / "tiny.pt.part").stat().st_size
    site.mode = "good"
    assert fetch_weights(entry, folder).read_bytes() == site.data
    assert site.asked[-1] == (f"bytes={kept}-", None)


def test_a_part_that_is_too_long_starts_anew(site: Site, tmp_path: Path) -> None:
    part = tmp_path / "x.part"
    download(site.url, part)
    site.data = site.data[:5000]
    (tmp_path / "x.part.json").write_text(f'{{"url": "{site.url}", "validator": "\\"one\\"", "total": null}}')
    download(site.url, part)
    assert part.read_bytes() == site.data


def test_a_kill_between_download_and_check_needs_no_second_download(
    site: Site, entry: Entry, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as killed:
        killed.setattr(intake, "_settle", stop)
        with pytest.raises(KeyboardInterrupt):
            fetch_weights(entry, folder)
    assert "tiny.pt" not in content(folder)
    assert fetch_weights(entry, folder).read_bytes() == site.data
    assert len(site.asked) == 1


@pytest.mark.parametrize(
    ("mode", "text"),
    [
        ("page", "web page in place of the file"),
        ("disguised", "web page in place of the file"),
        ("404", "error 404.* --url"),
        ("403", "error 403.*log-in"),
        ("503", "error 503.*later"),
    ],
)
def test_no_file_at_all(site: Site, entry: Entry, folder: Path, mode: str, text: str) -> None:
    site.mode = mode
    with pytest.raises(UserError, match=text):
        fetch_weights(entry, folder)
    assert content(folder) == []


def test_no_connection(site: Site, entry: Entry, folder: Path) -> None:
    site.close()
    with pytest.raises(UserError, match=r"no connection.*weights import tiny"):
        fetch_weights(entry, folder)
    assert content(folder) == []
    with pytest.raises(UserError, match="no http"):
        fetch_weights(entry, folder, url="file:///etc/hosts")


def test_wrong_files_are_thrown_away(
    site: Site, entry: Entry, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match="bytes, expected 12"):
        fetch_weights(register(monkeypatch, url=site.url, size=12), folder)
    assert content(folder) == []
    with pytest.raises(UserError, match=r"thrown away.*sha256"):
        fetch_weights(register(monkeypatch, url=site.url, sha256="0" * 64), folder)
    assert content(folder) == []
    with pytest.raises(UserError, match=r"thrown away.*no part 'model_state_dict'"):
        fetch_weights(register(monkeypatch, "model_state_dict", url=site.url), folder)
    assert content(folder) == []


def test_a_mirror_and_a_model_to_fetch_by_hand(
    site: Site, entry: Entry, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    by_hand = register(monkeypatch)
    with pytest.raises(UserError, match="by hand") as error:
        fetch_weights(by_hand, folder)
    assert error.value.status == 409
    assert fetch_weights(by_hand, folder, url=site.url).read_bytes() == site.data


def test_a_damaged_file_is_replaced(site: Site, entry: Entry, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = register(monkeypatch, url=site.url, sha256=hashlib.sha256(site.data).hexdigest())
    folder.mkdir()
    (folder / "tiny.pt").write_bytes(site.data[:-1])
    assert fetch_weights(entry, folder).read_bytes() == site.data
