"""The report of a run: one HTML file that needs nothing else."""

from .history import History
from .page import write_report

__all__ = ["History", "write_report"]
