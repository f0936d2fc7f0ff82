"""Wrong versions of the app that tests must notice: `make mutants`.

Each mutant is one decision of the app undone: a constant that a benchmark chose, a call that ties two parts together, a
check at a door. It is made in a temporary copy, the tests named with it run there, and one of them must fail. A mutant
whose text is no longer in the app is an error, so that this list stays true: give it the new text, or drop it together
with the decision.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
APP = Path("apps/semisam")


@dataclass(frozen=True)
class Mutant:
    """A wrong version of the app.

    Args:
        name: for the command line.
        file: below ``apps/semisam``.
        old: text that is in the file once.
        new: what takes its place.
        tests: files or single tests below ``tests``, one of which must fail.
        why: what the decision is good for.
    """

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]
    why: str


MUTANTS = (
    # --- what a specialist is trained on, and how it answers ----------------------------------------------------------
    Mutant(
        "noisy-members",
        "lib/specialists/predict.py",
        "    for member in members:\n        member.eval()",
        "    for number, member in enumerate(members):\n        image = image + 0.02 * number\n        member.eval()",
        ("lib/specialists/test_wiring.py", "lib/specialists/test_specialist.py"),
        "the answer of several networks is the plain mean of what each says about the scan as it is",
    ),
    Mutant(
        "no-bias-field",
        "lib/specialists/augment.py",
        "* (1 + smooth) +",
        "+",
        ("lib/specialists/test_wiring.py",),
        "training windows have a smooth bias field, as MR scans do",
    ),
    Mutant(
        "never-aimed",
        "lib/training/sampling.py",
        "_AIMED = 0.7",
        "_AIMED = 0.0",
        ("lib/training/test_wiring.py",),
        "windows of large scans are centred at a structure more often than not",
    ),
    Mutant(
        "native-grid",
        "lib/specialists/spec.py",
        "_NATIVE_COSTS = 1.5",
        "_NATIVE_COSTS = 1.0",
        ("lib/specialists/test_wiring.py",),
        "a scan's own grid may cost half as much again: any other blurs",
    ),
    # --- propagation --------------------------------------------------------------------------------------------------
    Mutant(
        "uncovered-trusted",
        "lib/propagation/registration.py",
        " * (1 - 0.5 * warp(outside, displacement)[0])",
        "",
        ("lib/propagation/test_wiring.py::test_what_the_template_does_not_show_is_trusted_half",),
        "where the template shows nothing, the label is trusted half",
    ),
    Mutant(
        "prototypes-not-centred",
        "lib/propagation/prototype.py",
        "_unit(features - features.mean(dim=(1, 2, 3), keepdim=True))",
        "_unit(features)",
        ("lib/propagation/test_wiring.py::test_prototypes_do_not_mind_what_a_scanner_adds_to_all_of_a_scan",),
        "what all places of a scan have in common says nothing about one of them",
    ),
    Mutant(
        "prototypes-without-place",
        "lib/propagation/prototype.py",
        "place_weight: float = 2.0",
        "place_weight: float = 0.0",
        ("lib/propagation/test_wiring.py::test_prototypes_tell_left_from_right_where_both_look_the_same",),
        "features that repeat all over a scan are told apart by their place",
    ),
    # --- recipes ------------------------------------------------------------------------------------------------------
    Mutant(
        "votes-not-balanced",
        "lib/recipes/semisam_o1/refinement.py",
        "balanced(votes, before.mean(dim=0))",
        "votes",
        ("lib/recipes/semisam_o1/test_wiring.py",),
        "the votes of other scans do not say how large a structure is",
    ),
    Mutant(
        "never-settled",
        "lib/recipes/semisam_o1/earlier_rounds.py",
        "SETTLED = 0.985",
        "SETTLED = 2.0",
        ("lib/recipes/semisam_o1/test_wiring.py",),
        "rounds end when the labels hardly change any more",
    ),
    Mutant(
        "settled-unasked",
        "lib/recipes/semisam_o1/recipe.py",
        " and not settled(finished):",
        ":",
        ("lib/recipes/engine/test_run.py::test_rounds_end_when_the_labels_no_longer_change",),
        "the recipe asks whether the labels still change",
    ),
    Mutant(
        "earlier-forgotten",
        "lib/recipes/semisam_o1/rounds.py",
        "joined = with_earlier(run, name, refined)",
        "joined = refined",
        ("lib/recipes/semisam_o1/test_wiring.py",),
        "a round's labels keep a share of those before it (temporal ensembling)",
    ),
    Mutant(
        "earlier-members",
        "lib/recipes/semisam_o1/earlier_rounds.py",
        "[*members[:count], *earlier.members[: (index - 1) * count]]",
        "members",
        ("lib/recipes/engine/test_run_networks.py::test_the_specialist_is_the_best_network_of_each_round",),
        "the specialist is the networks of all rounds together",
    ),
    Mutant(
        "folds-have-seen-it",
        "lib/recipes/ssl_medsam2/recipe.py",
        "if name in fold.held_out]",
        "if name not in fold.held_out]",
        ("lib/recipes/ssl_medsam2/test_recipe.py",),
        "a scan is relabelled by networks that have not learned from its label",
    ),
    Mutant(
        "no-threshold",
        "lib/recipes/semisam_plus/consensus.py",
        "(uncertainty < threshold).float()",
        "(uncertainty < 2.0).float()",
        ("lib/recipes/semisam_plus/test_recipe.py",),
        "SemiSAM+ Eq. 5: only what the answers agree on is learned",
    ),
    Mutant(
        "same-contrast",
        "lib/specialists/regularisers/perturbed_teacher.py",
        "self.taught(images * (1 + change.to(images.device)))",
        "self.taught(images)",
        ("lib/recipes/fm_abs/test_wiring.py",),
        "FM-ABS, L_c: the teacher sees another contrast",
    ),
    Mutant(
        "boxes-grow-one-way",
        "lib/recipes/fm_abs/prompts.py",
        "low[axis] = max(0, low[axis] - before)",
        "low[axis] = max(0, low[axis])",
        ("lib/recipes/fm_abs/test_wiring.py",),
        "FM-ABS: each side of a box moves outwards at random",
    ),
    Mutant(
        "between-voxels",
        "lib/recipes/fm_abs/assistant.py",
        "(use > 0.99)",
        "(use > 0.01)",
        ("lib/recipes/fm_abs/test_wiring.py",),
        "nothing is learned where a window lies between agreement and none: one-hot values sum to less than 1 there",
    ),
    Mutant(
        "absent-classes-count",
        "lib/recipes/fm_abs/assistant.py",
        "weight * loss * present.numel() / present.sum()",
        "weight * loss",
        ("lib/recipes/fm_abs/test_wiring.py",),
        "Eq. 2 is the mean over the classes that an answer holds",
    ),
    Mutant(
        "second-generalist-not-asked",
        "lib/recipes/semisam_plus/recipe.py",
        "generalists or run.asked",
        "generalists or run.asked[:1]",
        ("lib/recipes/semisam_plus/test_recipe.py::test_two_generalists",),
        "SemiSAM+ prompts all generalists of the server, Eq. 14",
    ),
    Mutant(
        "model-on-a-gpu-not-called-for",
        "lib/recipes/semisam_plus/promptable.py",
        "        self._call()\n",
        "",
        ("lib/recipes/semisam_plus/test_answerers.py",),
        "a model that waits in main memory comes back to the GPU before it answers",
    ),
    # --- the engine: disk and locks -----------------------------------------------------------------------------------
    Mutant(
        "no-reserve",
        "lib/recipes/engine/planning.py",
        "RESERVE = 100 * 2**20",
        "RESERVE = 0",
        ("lib/recipes/engine/test_wiring.py",),
        "a training does not begin on a disk that is all but full",
    ),
    Mutant(
        "no-need",
        "lib/recipes/engine/planning.py",
        "return RESERVE + scans * voxels * (2 + (1 + KEPT_ROUNDS) * (channels + 1))",
        "return RESERVE",
        ("lib/recipes/engine/test_wiring.py",),
        "a training does not begin where its soft labels will not fit",
    ),
    Mutant(
        "no-lock",
        "lib/recipes/engine/run_folder.py",
        "        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)\n",
        "        pass\n",
        ("lib/recipes/engine/test_run_folder.py",),
        "two trainings do not write into one folder",
    ),
    # --- files --------------------------------------------------------------------------------------------------------
    Mutant(
        "label-of-another-grid",
        "lib/formats/label_files.py",
        "(0, 0, 0)) if exactly else _placement(label, scan)",
        "(0, 0, 0))",
        ("lib/formats/test_label_files.py",),
        "a label that lies elsewhere in space than its scan is refused",
    ),
    Mutant(
        "uneven-slices",
        "lib/dicom_series/stack.py",
        "    _check_even(slices, along, name)\n",
        "",
        ("lib/dicom_series/test_dicom_series.py",),
        "a series with missing or uneven slices is refused, not stretched",
    ),
    Mutant(
        "half-written",
        "lib/core/files.py",
        "        write(name)\n",
        "        write(str(path)), write(name)\n",
        ("lib/core/test_files.py",),
        "a kill while saving leaves the old or the new file",
    ),
    # --- the server ---------------------------------------------------------------------------------------------------
    Mutant(
        "labels-before-specialist",
        "trainers/observer.py",
        "        if finished.checkpoint is not None and not self._publish(",
        "        self._store({n: (str(x.path), {}) for n, x in finished.pseudo_labels.items()})\n"
        "        if finished.checkpoint is not None and not self._publish(",
        ("trainers/test_wiring.py",),
        "first the specialist is in service, then its labels are shown",
    ),
    Mutant(
        "any-host",
        "server/web/gate.py",
        "            check_host(scope, self._hosts)\n",
        "",
        ("server/web/test_wiring.py",),
        "the server answers to its own names only (DNS rebinding)",
    ),
    Mutant(
        "any-origin",
        "server/web/gate.py",
        "            check_origin(scope, self._origins)\n",
        "",
        ("server/web/test_wiring.py",),
        "pages of others change nothing",
    ),
    Mutant(
        "any-length",
        "server/web/gate.py",
        "            await body.check_announced()\n",
        "",
        ("server/web/test_wiring.py",),
        "a body that is announced as too long is refused before it is read",
    ),
    Mutant(
        "outline-of-another-scan",
        "server/store/final_labels.py",
        "            store.check_drawn_on(item.name, FINAL)\n",
        "            pass\n",
        ("server/store/test_labels_last.py",),
        "an outline does not count for another scan that has taken the place of its own",
    ),
    Mutant(
        "final-overwritten",
        "trainers/observer.py",
        "if name not in here or store.get_label_by_image_id(name, FINAL):",
        "if name not in here:",
        ("trainers/test_wiring.py", "trainers/test_observer.py"),
        "a scan that a person has outlined meanwhile gets no pseudo-label",
    ),
    Mutant(
        "labels-all-alike",
        "server/dicomweb/sending.py",
        "return hashlib.sha256(Path(file).read_bytes() + names.encode()).hexdigest()[:16]",
        "return names[:16]",
        ("server/dicomweb/test_wiring.py",),
        "a pseudo-label that has changed is sent to the DICOM server again",
    ),
    Mutant(
        "health-waits",
        "server/health/route.py",
        "    add_outermost(app, OneByOne,",
        "    (lambda *_, **__: None)(app, OneByOne,",
        ("server/health/test_health.py",),
        "a container is not taken for dead while a label is made",
    ),
    Mutant(
        "clients-are-never-gone",
        "server/web/one_by_one.py",
        "        if not coming.done():\n",
        "        if True:\n",
        ("server/web/test_one_by_one.py",),
        "an answer that goes on ends when its client goes",
    ),
    Mutant(
        "doubtful-structures-stay-unnamed",
        "lib/propagation/warnings.py",
        "doubtful = [] if sound is False else",
        "doubtful = [] if sound is not None else",
        ("lib/propagation/test_agreement.py",),
        "small structures in the wrong place are told, though the large ones are right",
    ),
    Mutant(
        "thin-structures-count-once",
        "lib/recipes/engine/grid.py",
        "weights = volume_weights(outlines, spacing, schema.channels)",
        "weights = None",
        ("lib/recipes/engine/test_grid.py",),
        "structures thinner than the working grid are found on it",
    ),
    Mutant(
        "channels-change-alike",
        "lib/specialists/augment.py",
        "        if image.shape[1] == 1:\n",
        "        if True:\n",
        ("lib/specialists/test_augment.py",),
        "what one channel shows does not tell how another one was changed",
    ),
)


def problems(mutants: Sequence[Mutant] = MUTANTS) -> list[str]:
    """Mutants that cannot be made, or whose tests are not there."""
    found = []
    for mutant in mutants:
        file = ROOT / APP / mutant.file
        count = file.read_text(encoding="utf-8").count(mutant.old) if file.is_file() else 0
        if count != 1:
            found.append(f"{mutant.name}: its text is {count} times in {mutant.file}, not once")
        for test in mutant.tests:
            path, _, name = test.partition("::")
            at = ROOT / "tests" / path
            if not at.is_file() or f"def {name}" not in at.read_text(encoding="utf-8"):
                found.append(f"{mutant.name}: there is no tests/{test}")
    return found
