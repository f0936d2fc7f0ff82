"""What tests of whole runs share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from lib.recipes import PRESETS
from lib.recipes.engine.options import Preset


@pytest.fixture(scope="module")
def small_presets() -> Iterator[None]:
    """The preset ``quick`` with two rounds of a few steps on a coarse grid."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PRESETS, "quick", Preset(2, 2, 4, 2, (4, 8, 8), 6_000, 4_000))
        yield
