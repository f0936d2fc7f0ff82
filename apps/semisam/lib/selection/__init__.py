"""Selection: which scan to look at, which planes to outline, and how good a pseudo-label is."""

from .calibration import LEAST_PAIRS, Calibration
from .descriptor import describe
from .diversity import pick
from .orders import by_coverage, by_uncertainty_and_coverage, by_value, evenly, worst_label_first
from .planes import planes_in_scan, planes_to_outline
from .quality import Quality, estimate_quality, opinions_on
from .representativeness import representativeness, spread
from .reverse import reverse_dice
from .shapes import Shape, plausibility, shapes_of
from .uncertainty import ScanUncertainty, threshold_at, uncertainty_of

__all__ = [
    "LEAST_PAIRS",
    "Calibration",
    "Quality",
    "ScanUncertainty",
    "Shape",
    "by_coverage",
    "by_uncertainty_and_coverage",
    "by_value",
    "describe",
    "estimate_quality",
    "evenly",
    "opinions_on",
    "pick",
    "planes_in_scan",
    "planes_to_outline",
    "plausibility",
    "representativeness",
    "reverse_dice",
    "shapes_of",
    "spread",
    "threshold_at",
    "uncertainty_of",
    "worst_label_first",
]
