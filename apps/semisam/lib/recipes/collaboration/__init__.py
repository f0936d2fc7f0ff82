"""SemiSAM+: a specialist in training asks frozen generalists and learns from what they are sure of."""

from .answering import Answerer, ScanView
from .assistant import CollaborationOptions, GeneralistAssistant
from .promptable import PromptableAnswerer
from .question import PromptMode
from .walk import WalkAnswerer

__all__ = [
    "Answerer",
    "CollaborationOptions",
    "GeneralistAssistant",
    "PromptMode",
    "PromptableAnswerer",
    "ScanView",
    "WalkAnswerer",
]
