"""nnU-Net takes its folders and numbers of processes from the environment, and prints."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from lib.upstream.nnunet_environment import PATHS, nnunet_environment
from tiny_study import ROOT

SCRIPT = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from lib.upstream.nnunet_environment import nnunet_environment
with nnunet_environment(Path(sys.argv[2]), workers=1):
    from nnunetv2 import configuration, paths
    from nnunetv2.utilities.default_n_proc_DA import get_allowed_n_proc_DA
    found = [str(paths.nnUNet_raw), get_allowed_n_proc_DA(), configuration.default_num_processes]
    print("a message")
print(found)
"""


@pytest.mark.slow
def test_folders_and_processes_are_read_from_these_variables(tmp_path: Path) -> None:
    pytest.importorskip("nnunetv2", reason="pip install -r requirements-nnunet.txt")
    words = [sys.executable, "-c", SCRIPT, str(ROOT / "apps" / "semisam"), str(tmp_path)]
    said = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    raw, workers, processes = said.strip().strip("[]").split(", ")
    assert raw == repr(str(tmp_path / PATHS["nnUNet_raw"]))
    assert int(workers) == 1
    assert int(processes) >= 1
    assert "a message" in (tmp_path / "nnunet.log").read_text(encoding="utf-8")


def test_without_a_folder_messages_go_nowhere(capsys: pytest.CaptureFixture[str]) -> None:
    with nnunet_environment():
        print("a message")
    assert capsys.readouterr().out == ""
