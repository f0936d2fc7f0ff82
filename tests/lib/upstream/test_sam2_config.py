"""SAM 2's own builder cannot find its files when another part of the program uses Hydra."""

from __future__ import annotations

import subprocess
import sys

import pytest

from lib.generalists.sam2video.networks import LAYOUTS
from lib.upstream.sam2_config import description
from tiny_study import ROOT

SCRIPT = """
import sys
sys.path.insert(0, sys.argv[1])
from hydra import initialize_config_module
initialize_config_module("hydra", version_base="1.2")  # as another part of the program
from lib.upstream.sam2_config import description
assert description("sam2.1_hiera_t").model.image_encoder
from sam2.build_sam import build_sam2
try:
    build_sam2("configs/sam2.1/sam2.1_hiera_t.yaml", device="cpu")
except Exception as error:
    print(type(error).__name__)
"""


def test_each_network_has_its_file() -> None:
    for layout in LAYOUTS.values():
        assert description(layout.config).model.image_size == 1024


@pytest.mark.slow
def test_the_builder_fails_without_us() -> None:
    words = [sys.executable, "-c", SCRIPT, str(ROOT / "apps" / "semisam")]
    said = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    assert "MissingConfigException" in said
