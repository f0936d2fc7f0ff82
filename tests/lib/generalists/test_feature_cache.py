"""Features on disk: encoded once, bounded, and never wrong."""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from lib.generalists import CachedGeneralist, FeatureCache, ResidentGeneralist, Residents, unwrap
from lib.generalists.base import Generalist, Promptable
from lib.generalists.mind import Mind
from tiny_study import ROOT
from tinymodel import TinyGeneralist, official, register

APP = ROOT / "apps" / "semisam"
MM = (1.0, 1.0, 1.0)


def scan(seed: int = 0, edge: int = 8) -> Tensor:
    return torch.rand(1, edge, edge, edge, generator=torch.Generator().manual_seed(seed)) * 900


def model(scale: float = 1.0) -> TinyGeneralist:
    return TinyGeneralist("tiny", torch.full((4,), scale))


def files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.feat"))


def test_the_second_run_encodes_nothing_and_gives_the_same(tmp_path: Path) -> None:
    inner = model()
    first, second = FeatureCache(tmp_path), FeatureCache(tmp_path)
    before = [CachedGeneralist(inner, first).encode(scan(n), MM) for n in range(3)]
    after = [CachedGeneralist(inner, second).encode(scan(n), MM) for n in range(3)]
    assert (first.encodes, first.hits) == (3, 0)
    assert (second.encodes, second.hits) == (0, 3)
    assert inner.encoded == 3
    for one, other, n in zip(before, after, range(3), strict=True):
        assert other.dtype == torch.float32
        torch.testing.assert_close(other, one, rtol=0, atol=0)
        torch.testing.assert_close(other, scan(n).expand(4, -1, -1, -1), rtol=1e-3, atol=0)


def test_half_precision_on_disk(tmp_path: Path) -> None:
    FeatureCache(tmp_path).encode(model(), scan(edge=16), MM)
    (file,) = files(tmp_path)
    assert 4 * 16**3 * 2 <= file.stat().st_size < 4 * 16**3 * 2 + 100


@pytest.mark.slow
def test_whatever_features_depend_on_makes_another_entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = FeatureCache(tmp_path)
    cache.encode(model(), scan(), MM)
    other_scan, turned = scan(1), scan().reshape(1, 4, 16, 8)
    for image, spacing in ((other_scan, MM), (turned, MM), (scan(), (1.0, 1.0, 1.5))):
        cache.encode(model(), image, spacing)
    assert (cache.encodes, cache.hits) == (4, 0)
    renamed, prepared = model(), model()
    renamed.name, prepared.preprocessing = "other", "tiny 2"
    cache.encode(renamed, scan(), MM)
    cache.encode(prepared, scan(), MM)
    assert (cache.encodes, cache.hits) == (6, 0)
    register(monkeypatch)
    for seed in (0, 1):
        folder = tmp_path / str(seed)
        official(folder / "tiny.pt", seed)
        cache.encode(ResidentGeneralist("tiny", weights=folder, residents=Residents()), scan(), MM)
    assert (cache.encodes, cache.hits) == (8, 0)
    cache.encode(model(), scan().transpose(1, 2).contiguous().transpose(1, 2), MM)
    assert cache.hits == 1


def test_what_was_not_used_for_longest_goes_first(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path, limit_bytes=3 * (4 * 8**3 * 2 + 40))
    now = time.time()
    for n in range(3):
        cache.encode(model(), scan(n), MM)
        newest = max(files(tmp_path), key=lambda p: p.stat().st_mtime_ns)
        os.utime(newest, (now - 100 + n, now - 100 + n))
    cache.encode(model(), scan(0), MM)  # the oldest one is used again
    cache.encode(model(), scan(3), MM)
    assert len(files(tmp_path)) == 3
    assert sum(f.stat().st_size for f in files(tmp_path)) <= cache.limit_bytes
    cache.hits = 0
    for n in (0, 2, 3):
        cache.encode(model(), scan(n), MM)
    assert cache.hits == 3
    cache.encode(model(), scan(1), MM)
    assert cache.hits == 3


def test_a_scan_that_never_fits_pushes_nothing_out(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path, limit_bytes=3 * (4 * 8**3 * 2 + 40))
    cache.encode(model(), scan(), MM)
    kept = files(tmp_path)
    cache.encode(model(), scan(edge=16), MM)
    assert files(tmp_path) == kept


@pytest.mark.parametrize("damage", ["cut", "empty", "flipped", "foreign", "header"])
def test_a_damaged_file_is_made_again(tmp_path: Path, damage: str) -> None:
    cache = FeatureCache(tmp_path)
    good = cache.encode(model(), scan(), MM)
    (file,) = files(tmp_path)
    data = bytearray(file.read_bytes())
    whole = bytes(data)
    data[len(data) // 2] ^= 1
    bad = {"cut": whole[:-10], "empty": b"", "flipped": bytes(data), "foreign": b"x" * 99, "header": whole[:10]}
    file.write_bytes(bad[damage])
    torch.testing.assert_close(cache.encode(model(), scan(), MM), good, rtol=0, atol=0)
    assert (cache.encodes, cache.hits) == (2, 0)
    assert file.read_bytes() == whole


@pytest.mark.slow
def test_killed_while_writing_leaves_nothing_wrong(tmp_path: Path) -> None:
    """Two processes write and read the same entries; one of them is killed."""
    code = (
        "import sys; sys.path[:0] = sys.argv[2:]\n"
        "from pathlib import Path\nfrom test_feature_cache import FeatureCache, MM, model, scan, files\n"
        "import torch; torch.set_num_threads(1)\n"
        "cache = FeatureCache(Path(sys.argv[1]))\nprint('ready', flush=True)\n"
        "while True:\n"
        "    for file in files(cache.folder): file.unlink(missing_ok=True)\n"
        "    for n in range(4): cache.encode(model(), scan(n, 32), MM)\n"
    )
    paths = [APP, Path(__file__).parent, ROOT / "tests" / "support"]
    command = [sys.executable, "-c", code, str(tmp_path), *map(str, paths)]
    cache = FeatureCache(tmp_path)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline().strip() == "ready"
        until = time.monotonic() + 1.5
        while time.monotonic() < until:
            for n in range(4):
                got = cache.encode(model(), scan(n, 32), MM)
                torch.testing.assert_close(got, scan(n, 32).expand(4, -1, -1, -1), rtol=1e-3, atol=0)
        other.send_signal(signal.SIGKILL)
    assert cache.hits > 0
    fresh = FeatureCache(tmp_path)
    for n in range(4):
        got = fresh.encode(model(), scan(n, 32), MM)
        torch.testing.assert_close(got, scan(n, 32).expand(4, -1, -1, -1), rtol=1e-3, atol=0)


def test_left_overs_of_killed_processes_go(tmp_path: Path) -> None:
    old, new = tmp_path / ".part-old.feat", tmp_path / ".part-new.feat"
    old.write_bytes(b"x")
    new.write_bytes(b"x")
    os.utime(old, (1e9, 1e9))
    FeatureCache(tmp_path).encode(model(), scan(), MM)
    assert not old.exists()
    assert new.exists()


def test_a_full_disk_does_not_stop_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: argparse.Namespace(free=1000))
    cache = FeatureCache(tmp_path)
    torch.testing.assert_close(cache.encode(model(), scan(), MM), scan().expand(4, -1, -1, -1), rtol=1e-3, atol=0)
    assert files(tmp_path) == []
    monkeypatch.undo()
    (tmp_path / "file").write_text("")
    FeatureCache(tmp_path / "file").encode(model(), scan(), MM)


def test_features_beyond_half_precision_are_given_but_not_kept(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path)
    large = cache.encode(model(1e6), scan() + 1, MM)
    assert bool(torch.isfinite(large).all())
    assert files(tmp_path) == []


@pytest.mark.slow
def test_other_abilities_shine_through(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch)
    official(tmp_path / "tiny.pt")
    resident = ResidentGeneralist("tiny", weights=tmp_path, residents=Residents())
    cached = CachedGeneralist(resident, FeatureCache(tmp_path / "features"))
    assert cached.name == "tiny"
    assert isinstance(unwrap(cached), Promptable)
    cached.release()
    CachedGeneralist(Mind(), cached.cache).release()


def test_only_what_is_made_of_the_features_is_kept(tmp_path: Path) -> None:
    cached = CachedGeneralist(Mind(), FeatureCache(tmp_path), own=False)
    image = scan(edge=12)
    torch.testing.assert_close(cached.encode(image, MM), Mind().encode(image, MM), rtol=0, atol=0)
    assert files(tmp_path) == []

    def halved(model: Generalist) -> Tensor:
        return model.encode(image, MM)[:, ::2, ::2, ::2]

    first = cached.derived(halved, image[0].numpy(), "every second")
    torch.testing.assert_close(first, halved(Mind()), rtol=0, atol=1e-3)
    again = CachedGeneralist(Mind(), FeatureCache(tmp_path), own=False)
    found = again.derived(lambda model: pytest.fail("encoded anew"), image[0].numpy(), "every second")
    torch.testing.assert_close(found, first, rtol=0, atol=0)
    assert (cached.cache.encodes, again.cache.encodes, again.cache.hits) == (1, 0, 1)


def test_what_derived_features_depend_on_makes_another_entry(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path)
    array = scan(edge=6)[0].numpy()
    turned = array.T  # the same bytes in memory, another scan

    def keep(model: Mind, values: np.ndarray, about: str) -> None:
        image = torch.from_numpy(np.ascontiguousarray(values))[None]
        found = CachedGeneralist(model, cache, own=False).derived(lambda m: m.encode(image, MM), values, about)
        torch.testing.assert_close(found, model.encode(image, MM), rtol=0, atol=1e-3)

    for model, values, about in [
        (Mind(), array, "a"),
        (Mind(), array, "b"),
        (Mind(), turned, "a"),
        (Mind(), array + 1, "a"),
        (Mind(radius=2), array, "a"),
        (Mind(dilation=1), array, "a"),
    ]:
        keep(model, values, about)
    assert (cache.encodes, cache.hits) == (6, 0)
    keep(Mind(), array.copy(), "a")
    assert cache.hits == 1


def test_mind_is_read_at_least_five_times_faster_than_made(tmp_path: Path) -> None:
    cached = CachedGeneralist(Mind(), FeatureCache(tmp_path))
    image = scan(edge=58)  # as many voxels as the prototype propagator works on
    times = []
    for _ in range(6):
        start = time.perf_counter()
        cached.encode(image, MM)
        times.append(time.perf_counter() - start)
    assert cached.cache.encodes == 1
    start = time.perf_counter()
    Mind().encode(image, MM)
    assert min(times[1:]) * 5 < time.perf_counter() - start
