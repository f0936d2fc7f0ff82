"""The command line: ``python apps/semisam/main.py demo DIR``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from .demo import make_demo_study
from .errors import UserError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the process's exit status."""
    parser = argparse.ArgumentParser(prog="main.py", description="Tools around the semisam server app.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    demo = commands.add_parser("demo", help="make a study to try the server on; its first scan is outlined")
    demo.add_argument("folder", metavar="DIR", type=Path, help="new folder of the study")
    demo.add_argument("--scans", type=int, default=12, help="number of scans (default: %(default)s)")
    demo.add_argument("--seed", type=int, default=0, help="seed of the random numbers (default: %(default)s)")
    chosen = parser.parse_args(arguments)
    try:
        names = make_demo_study(chosen.folder, scans=chosen.scans, seed=chosen.seed)
    except (UserError, OSError) as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 1
    app = Path(__file__).resolve().parents[1]
    print(f"{chosen.scans} scans in {chosen.folder}. Start the server with:")
    print(f"  monailabel start_server --app {app} --studies {chosen.folder.resolve()} --conf labels {','.join(names)}")
    return 0
