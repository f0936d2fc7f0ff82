"""Maps of probabilities as files hold them."""

from __future__ import annotations

import numpy as np


def as_bytes(probability: np.ndarray) -> np.ndarray:
    """Probabilities 0..1 of any shape as whole numbers from 0 to 255, uint8."""
    result: np.ndarray = np.rint(probability * 255).astype(np.uint8)
    return result
