"""A structure has one colour, wherever it is shown."""

from __future__ import annotations

from server.palette import as_text, colour_of, colours_of


def test_usual_structures_have_their_usual_colours_however_they_are_written() -> None:
    assert colour_of("liver", 1) == colour_of("Liver", 3) == (221, 130, 101)
    assert colour_of("left_kidney", 1) == colour_of(" left  Kidney", 5) == (185, 102, 83)


def test_others_have_colours_by_value_that_begin_anew() -> None:
    names = {f"part {value}": value for value in range(1, 20)}
    colours = colours_of(names)
    assert set(colours) == set(range(1, 20))
    assert len({colours[value] for value in range(1, 9)}) == 8
    assert colours[9] == colours[1]
    assert as_text((0, 10, 255)) == "#000aff"


def test_what_a_viewer_sent_goes_first_if_it_is_a_colour() -> None:
    assert colour_of("liver", 1, [1, 2, 3.9, 255]) == (1, 2, 3)
    assert colour_of("liver", 1, [300, -1, 0]) == (255, 0, 0)
    for odd in ("red", [1, 2], [None, 1, 2], 7):
        assert colour_of("liver", 1, odd) == (221, 130, 101)
