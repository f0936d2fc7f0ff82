"""What is known about a pseudo-label: written beside it, shown in the report, and stored with it in the study."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

Source = Literal["propagation", "specialist"]

NOT_LEARNED = (
    "Nothing is learned from this label, as it is hardly right. Correct it and save it as final, and the next training "
    "learns from it."
)
"""The warning of a label that is not sound."""


@dataclass(frozen=True)
class PseudoLabelFacts:
    """What is known about a pseudo-label.

    Args:
        confidence: mean over the structures' voxels, 0..1.
        uncertainty: mean normalised entropy over the voxels in and around the structures, 0..1.
        templates: names of the outlined scans that it comes from.
        round: that made it; 0 is the propagation.
        source: who made it.
        agreement: mean Dice with the label of the round before, 0..1; None where there was none.
        warnings: what a person should look at, in words.
        sound: whether it is likely to be about right as a whole; else nothing is learned from it.
        label_names: voxel values by structure; this and the next two are filled in when the label is written.
        volume_ml: by structure.
        recipe: name of the recipe.
    """

    confidence: float
    uncertainty: float
    templates: tuple[str, ...]
    round: int
    source: Source
    agreement: float | None = None
    warnings: tuple[str, ...] = ()
    sound: bool = True
    label_names: Mapping[str, int] = field(default_factory=dict)
    volume_ml: Mapping[str, float] = field(default_factory=dict)
    recipe: str = ""

    @property
    def holds_structure(self) -> bool:
        """Whether the label has a voxel of any structure."""
        return any(volume > 0 for volume in self.volume_ml.values())

    @property
    def teaches(self) -> bool:
        """Whether the next training learns from it."""
        return self.sound and self.holds_structure

    def to_json(self) -> dict[str, object]:
        """As plain types; what is not known has no key."""
        content: dict[str, object] = {
            "label_names": dict(self.label_names),
            "volume_ml": dict(self.volume_ml),
            "recipe": self.recipe,
            "confidence": self.confidence,
            "uncertainty": self.uncertainty,
        }
        if self.agreement is not None:
            content["agreement"] = self.agreement
        content |= {"templates": list(self.templates), "round": self.round, "source": self.source}
        if self.warnings:
            content["warnings"] = list(self.warnings)
        if not self.sound:
            content["sound"] = False
        return content

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> PseudoLabelFacts:
        """What ``to_json`` gave.

        Raises:
            ValueError: when something is missing or of another type.
        """
        try:
            if content["source"] not in get_args(Source):
                raise ValueError(f"unknown source {content['source']!r}")
            agreement = content.get("agreement")
            return cls(
                confidence=float(content["confidence"]),
                uncertainty=float(content["uncertainty"]),
                templates=tuple(str(name) for name in content["templates"]),
                round=int(content["round"]),
                source=content["source"],
                agreement=None if agreement is None else float(agreement),
                warnings=tuple(str(text) for text in content.get("warnings", ())),
                sound=content.get("sound") is not False,
                label_names={str(name): int(value) for name, value in content["label_names"].items()},
                volume_ml={str(name): float(volume) for name, volume in content["volume_ml"].items()},
                recipe=str(content["recipe"]),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ValueError(f"not the facts of a pseudo-label: {error}") from error
