"""What the values of one label file mean in the study: by the file's own names, else by those that came along."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lib.core.errors import UserError
from lib.core.label_names import Named, check_known, check_nameless, value_map
from lib.core.labels import LabelSchema

from .segmentations import names_in_file, values_by_name


class LabelMeaning:
    """What a label's values mean in the schema, by its names; remembers which are exchanged.

    Args:
        names: known of the label, see ``lib.core.label_names.names_in``.
        own: the file's own names for its values, which go before those; empty when it has none.
        schema: the structures.
        what: how to call the label in messages.
    """

    def __init__(self, names: Named, own: Named, schema: LabelSchema, what: str) -> None:
        self._known, self._own, self._schema, self._what = names, own, schema, what
        self.exchanged: dict[int, int] = {}

    @classmethod
    def of(cls, file: Path, names: Named, schema: LabelSchema, what: str) -> LabelMeaning:
        """What a file's values mean.

        Raises:
            UserError: (422) when it cannot be read.
        """
        try:
            return cls(names, names_in_file(file), schema, what)
        except UserError as error:
            raise UserError(f"{what} cannot be used: {error}", status=error.status) from error

    @property
    def names(self) -> Named:
        """The names that count."""
        return self._own or self._known

    def check_names(self) -> None:
        """Raise UserError (422) when the schema does not know one of the names that came along."""
        if not self._own:
            check_known(self._known, self._schema, self._what)

    def __call__(self, present: Sequence[int]) -> dict[int, int]:
        """What becomes of each value that is present in the label, for ``read_label``."""
        if self._own:
            self.exchanged = values_by_name(self._own, present, self._schema, self._what)
            return self.exchanged
        if not self._known:
            check_nameless(present, self._schema, self._what)
        self.exchanged = value_map(self._known, present, self._schema, self._what)
        return self.exchanged
