"""Functions of other packages are replaced once, loudly when they are gone."""

from __future__ import annotations

from types import ModuleType

import pytest

from server.upstream.replacing import arguments, plain, replace, restore


def a_module() -> ModuleType:
    module = ModuleType("other")

    def double(number: int, plus: int = 0) -> int:
        """Twice the number."""
        return 2 * number + plus

    module.double = double  # type: ignore[attr-defined]
    return module


def test_a_function_is_replaced_once_however_often_the_app_is_loaded() -> None:
    module = a_module()
    own = module.double
    for _ in range(3):
        replace(module, "double", lambda own: lambda *args: own(*args) + 1)
    assert module.double(4) == 9
    assert module.double.__doc__ == "Twice the number."
    assert plain(module, "double") is own
    restore(module, "double")
    assert module.double is own


def test_a_static_method_stays_one() -> None:
    class Other:
        @staticmethod
        def name() -> str:
            return "own"

    replace(Other, "name", lambda own: lambda: f"not {own()}")
    assert Other().name() == Other.name() == "not own"
    restore(Other, "name")
    assert Other().name() == "own"


def test_what_is_gone_is_told() -> None:
    with pytest.raises(AttributeError, match="triple"):
        replace(a_module(), "triple", lambda own: own)


def test_arguments_have_the_names_of_the_package() -> None:
    call = arguments(a_module().double, (4,), {})
    assert call.arguments == {"number": 4, "plus": 0}
