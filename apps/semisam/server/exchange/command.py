"""The command lines ``main.py export`` and ``main.py import``: without a server, or beside a running one."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from lib.core.errors import UserError
from lib.core.program import program
from lib.exchange import FORMATS
from lib.specialists.portable import NETWORK_FORMATS
from server.jobs.command_study import choose_study

if TYPE_CHECKING:
    from server.store.study import Study

    from .importing import Line

_SHOWN = 20
"""Reasons that are printed; the table or the report has all of them."""


def main(command: str, arguments: Sequence[str]) -> NoReturn:
    """Export or import, and end the process.

    Args:
        command: ``export`` or ``import``.
        arguments: the words after it.
    """
    chosen = (_export_parser() if command == "export" else _import_parser()).parse_args(arguments)
    try:
        status = _export(chosen) if command == "export" else _import(chosen)
    except Exception as error:
        text = _said(error)
        if text is None:
            raise
        print(f"{program()} {command}: {text}", file=sys.stderr)
        status = 1
    except KeyboardInterrupt:
        print(f"\n{program()} {command}: stopped. Run the same command again to go on.", file=sys.stderr)
        status = 130
    logging.shutdown()
    sys.exit(status)


def _said(error: Exception) -> str | None:
    """What to say of an error that somebody can put right; None for any other."""
    from lib.core.errors import UserError as UserErrorNow  # loading the app loads the modules of lib anew

    if isinstance(error, OSError):
        return f"{error.strerror or error}: {error.filename or ''}"
    return str(error) if isinstance(error, (UserError, UserErrorNow)) else None


def _parser(command: str, what: str) -> argparse.ArgumentParser:
    """What both commands have."""
    parser = argparse.ArgumentParser(prog=f"{program()} {command}", description=what)
    parser.add_argument("--studies", metavar="DIR", help="folder or DICOMweb address of the study, as for the server")
    parser.add_argument(
        "--conf", nargs=2, action="append", default=[], metavar=("KEY", "VALUE"), help="a setting, as for the server"
    )
    return parser


def _export_parser() -> argparse.ArgumentParser:
    parser = _parser(
        "export",
        "Write the labels of a study, or its trained network (onnx, bundle), for other programs. Repeated, it goes on "
        "where it ended.",
    )
    parser.add_argument("--to", metavar="FOLDER", type=Path, required=True, help="new, empty, or an earlier export")
    parser.add_argument("--format", choices=[*FORMATS, *NETWORK_FORMATS], required=True)
    parser.add_argument(
        "--scans",
        nargs="+",
        default=[],
        metavar="NAME",
        help="names or patterns such as 'ward3_*' (default: all scans)",
    )
    parser.add_argument(
        "--pseudo-labels",
        action="store_true",
        help="also scans without a final label, with their pseudo-label; the table and the files say so",
    )
    parser.add_argument(
        "--least-quality", type=float, metavar="DICE", help="only pseudo-labels with at least this estimated Dice, 0..1"
    )
    parser.add_argument("--with-scans", action="store_true", help="nifti: write the scans, too")
    parser.add_argument(
        "--probabilities",
        action="store_true",
        help="nifti: write the probability of each structure, 0 to 255, by the trained network",
    )
    parser.add_argument(
        "--channel",
        default="image",
        metavar="NAME",
        help="nnunet: name of the channel; CT makes nnU-Net use Hounsfield units (default: %(default)s)",
    )
    return parser


def _export(chosen: argparse.Namespace) -> int:
    if chosen.least_quality is not None and not chosen.pseudo_labels:
        raise UserError("--least-quality goes with --pseudo-labels.")
    if chosen.format in NETWORK_FORMATS:
        return _export_network(chosen)
    study = open_study(chosen)
    from .exporting import ExportRequest, export_study

    request = ExportRequest(
        folder=chosen.to,
        form=chosen.format,
        scans=tuple(chosen.scans),
        pseudo_labels=chosen.pseudo_labels,
        least_quality=chosen.least_quality,
        with_scans=chosen.with_scans,
        channel=chosen.channel,
        probabilities=chosen.probabilities,
    )
    with _progress("Export") as say:
        outcome = export_study(study, request, say)
    there = f", {len(outcome.kept)} were there already" if outcome.kept else ""
    gone = f", {len(outcome.removed)} of an earlier export were taken away" if outcome.removed else ""
    print(f"{len(outcome.written)} scan(s) written to {chosen.to}{there}{gone}.")
    _print_refused("not exported", outcome.refused)
    return 1 if outcome.refused else 0


def _export_network(chosen: argparse.Namespace) -> int:
    """Export the specialist in service."""
    of_labels = ("scans", "pseudo_labels", "least_quality", "with_scans", "probabilities")
    given = [name for name in of_labels if getattr(chosen, name)]
    if given:
        option = given[0].replace("_", "-")
        raise UserError(f"--{option} is about labels; --format {chosen.format} writes the trained network.")
    study = open_study(chosen)
    from .exporting import export_specialist

    export_specialist(study, chosen.to, chosen.format)
    print(f"The trained network was written to {chosen.to}; its README.md says how to use it.")
    return 0


def _import_parser() -> argparse.ArgumentParser:
    parser = _parser(
        "import", "Make labels of other programs final: RTSTRUCT, SEG, nnU-Net data sets, .seg.nrrd, label maps."
    )
    parser.add_argument(
        "--from",
        dest="paths",
        nargs="+",
        default=[],
        metavar="PATH",
        type=Path,
        help="files, and folders with such files",
    )
    parser.add_argument(
        "--from-server",
        action="store_true",
        help="RTSTRUCT and SEG that lie beside the scans on the study's DICOM server",
    )
    parser.add_argument(
        "--names",
        metavar="TABLE.csv",
        type=Path,
        help="what names of structures mean in the study; written, for you to fill in, when it is needed and not there",
    )
    parser.add_argument(
        "--leave-out-others", action="store_true", help="leave out structures whose names are none of the study's"
    )
    parser.add_argument("--scan", default="", metavar="NAME", help="the scan that the one label belongs to")
    parser.add_argument("--replace", action="store_true", help="take the place of final labels that are there already")
    parser.add_argument(
        "--newest", action="store_true", help="of several RTSTRUCT or SEG of one scan, take the one that was made last"
    )
    parser.add_argument("--dry-run", action="store_true", help="read and check all, store nothing")
    parser.add_argument("--report", metavar="FILE.csv", type=Path, help="write there what has become of each label")
    return parser


def _import(chosen: argparse.Namespace) -> int:
    if not chosen.paths and not chosen.from_server:
        raise UserError("Say where the labels are: --from PATH, or --from-server.")
    study = open_study(chosen)
    from lib.exchange.incoming import find_labels

    from .importing import ImportRequest, import_labels, write_report
    from .on_server import fetched_objects

    request = ImportRequest(
        names=chosen.names,
        leave_out_others=chosen.leave_out_others,
        replace=chosen.replace,
        newest=chosen.newest,
        scan=chosen.scan,
        dry_run=chosen.dry_run,
    )
    own = study.scans_folder
    with fetched_objects(study, wanted=chosen.from_server) as fetched, _progress("Import") as say:
        found = find_labels([*chosen.paths, *fetched.folders], own)
        found.refused.update(fetched.refused)
        lines = import_labels(study, found, request, say)
    if chosen.report:
        write_report(chosen.report, lines)
    return _print_lines(lines, found.passed, dry_run=chosen.dry_run)


def _print_lines(lines: Sequence[Line], passed: int, *, dry_run: bool) -> int:
    """Say what has become of the labels; returns the exit status."""
    done = [line for line in lines if line.result in ("imported", "would be imported")]
    kept = [line for line in lines if line.result == "kept"]
    refused = {line.source: line.reason for line in lines if line.result == "refused"}
    print(f"{len(done)} label(s) {'could be imported' if dry_run else 'imported'}.")
    for line in done:
        if line.reason:
            print(f"  {line.scan} from {line.source}: {line.reason}")
    older = sum(line.result == "older" for line in lines)
    if older:
        print(f"{older} left: a newer one of the same scan was taken.")
    if kept:
        print(f"{len(kept)} left: their scans have a final label already; --replace takes its place.")
    if not lines:
        print(f"There was none to be found{f' among {passed} DICOM file(s)' if passed else ''}.")
    _print_refused("refused", refused)
    return 1 if refused or not lines else 0


def _print_refused(what: str, reasons: dict[str, str]) -> None:
    if not reasons:
        return
    print(f"{len(reasons)} {what}:", file=sys.stderr)
    for name, reason in list(reasons.items())[:_SHOWN]:
        print(f"  {name}: {reason}", file=sys.stderr)
    if len(reasons) > _SHOWN:
        print(f"  ... and {len(reasons) - _SHOWN} more", file=sys.stderr)


def open_study(chosen: argparse.Namespace) -> Study:
    """The study that a command line names, as the server would open it.

    MONAI Label reads its settings when it is first imported, so nothing that imports it may come before this.

    Raises:
        UserError: when there is none.
    """
    choose_study(chosen)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    from monailabel.interfaces.utils.app import app_instance

    app: Any = app_instance()
    study: Study = app.study
    return study


@contextmanager
def _progress(title: str) -> Iterator[Any]:
    """A bar of scans; in a log, where nobody watches, a line for every tenth of them."""
    from tqdm import tqdm  # type: ignore[import-untyped]

    bar: Any = None

    def say(done: int, total: int, name: str) -> None:
        nonlocal bar
        if not sys.stderr.isatty():
            if total and (done * 10) // total != ((done - 1) * 10) // total:
                print(f"{title}: {done} of {total} scans", file=sys.stderr, flush=True)
            return
        bar = bar or tqdm(desc=title, total=total, unit="scan", leave=False)
        bar.n = done
        bar.set_postfix_str(name[-30:])

    try:
        yield say
    finally:
        if bar is not None:
            bar.close()
