"""How large a scan may be: by its header, against the machine's memory or the administrator's limit."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from lib.core.errors import UserError
from lib.formats import limits
from lib.formats.limits import check_voxels, limit, set_limit
from lib.setup.settings import Settings


@pytest.fixture(autouse=True)
def default_limit() -> Iterator[None]:
    yield
    set_limit(None)


def test_refusal_says_size_limit_and_how_to_raise_it() -> None:
    set_limit(50_000_000)
    check_voxels((500, 400, 250), "case_1.nii.gz")
    with pytest.raises(UserError, match=r"case_1.nii.gz has 500 x 400 x 251 voxels.* at most 50 million") as caught:
        check_voxels((500, 400, 251), "case_1.nii.gz")
    assert caught.value.status == 413
    assert "--conf max_voxels 50200000" in str(caught.value)


def test_voxels_that_take_more_bytes_count_for_more() -> None:
    set_limit(50_000_000)
    with pytest.raises(UserError, match=r"16 bytes each.*--conf max_voxels 80000000"):
        check_voxels((200, 200, 500), "case_1.nii.gz", bytes_each=16)


def test_sizes_beyond_all_numbers_are_refused_as_well() -> None:
    with pytest.raises(UserError, match="voxels by its header"):
        check_voxels((10**9, 10**9, 10**9, 10**9), "case_1.nrrd")


def test_default_fits_the_memory_of_machine_and_container(monkeypatch: pytest.MonkeyPatch) -> None:
    assert limit() >= limits.LEAST_VOXELS
    monkeypatch.setattr(limits, "_memory", lambda: 8 * 2**30)
    assert 200e6 < limit() < 300e6  # a CT of 512 x 512 x 1000 on the smallest machine


def test_limits_of_containers_of_both_kinds_are_found(tmp_path: Path) -> None:
    newer, older, own = tmp_path / "box", tmp_path / "memory" / "box", tmp_path / "cgroup"
    newer.mkdir()
    older.mkdir(parents=True)
    (newer / "memory.max").write_text("4294967296\n")
    (tmp_path / "memory.max").write_text("max\n")
    (older / "memory.limit_in_bytes").write_text("2147483648\n")
    own.write_text("4:cpu:/other\n3:memory:/box\n0::/box\n")
    assert sorted(limits._container_limits(tmp_path, own)) == [2147483648, 4294967296]
    assert limits._container_limits(tmp_path, tmp_path / "missing") == []


def test_setting_is_a_number_of_voxels() -> None:
    assert Settings.from_conf({}).max_voxels is None
    assert Settings.from_conf({"max_voxels": "400000000"}).max_voxels == 400_000_000
    for text in ("0", "999999", "many", "-5", "1e9", "9" * 20):
        with pytest.raises(UserError, match="max_voxels"):
            Settings.from_conf({"max_voxels": text})
