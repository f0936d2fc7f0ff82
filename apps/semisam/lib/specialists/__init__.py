"""Specialists: small trainable networks, and the semi-supervised regularisers that help to train them."""

from .check import check_checkpoint
from .checkpoint import Specialist, load_fitting, load_specialist, read_spec, save_specialist
from .networks import build_network
from .predict import SpecialistPrediction, predict, predict_prepared
from .prepare import prepare
from .roi import roi_of
from .service import previous_of, put_in_service
from .spec import SpecialistSpec, check_roi, choose_roi, choose_spacing, fitting_widths, region_of_interest

__all__ = [
    "Specialist",
    "SpecialistPrediction",
    "SpecialistSpec",
    "build_network",
    "check_checkpoint",
    "check_roi",
    "choose_roi",
    "choose_spacing",
    "fitting_widths",
    "load_fitting",
    "load_specialist",
    "predict",
    "predict_prepared",
    "prepare",
    "previous_of",
    "put_in_service",
    "read_spec",
    "region_of_interest",
    "roi_of",
    "save_specialist",
]
