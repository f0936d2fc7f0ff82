"""FM-ABS's specialist-generalist collaboration: a scan asked slice by slice in three views, and what they agree on."""

from .answering import ScanAnswers, SliceAnswerer, answerer_of
from .assistant import SliceAssistant, SliceOptions
from .fusion import NOBODY, Fusion, fuse

__all__ = [
    "NOBODY",
    "Fusion",
    "ScanAnswers",
    "SliceAnswerer",
    "SliceAssistant",
    "SliceOptions",
    "answerer_of",
    "fuse",
]
