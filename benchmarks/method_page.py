"""Write the recipes' part of docs/explanation/method.md from the packages' own documentation.

    python benchmarks/method_page.py           # write
    python benchmarks/method_page.py --check   # say whether it is up to date

Each package in ``lib/recipes`` says in its docstring what its paper does and where it deviates; nothing is imported.
"""

from __future__ import annotations

import argparse
import ast
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RECIPES = ROOT / "apps" / "semisam" / "lib" / "recipes"
PAGE = ROOT / "docs" / "explanation" / "method.md"

BEGIN = "<!-- recipes: written by benchmarks/method_page.py from the packages in lib/recipes; change it there -->\n"
END = "<!-- end of recipes -->\n"


def names() -> list[str]:
    """The recipes, in the order of their registry."""
    for node in ast.walk(ast.parse((RECIPES / "registry.py").read_text(encoding="utf-8"))):
        if isinstance(node, ast.AnnAssign) and getattr(node.target, "id", "") == "RECIPES":
            assert isinstance(node.value, ast.Dict)
            return [str(ast.literal_eval(key)) for key in node.value.keys if key is not None]
    raise ValueError("registry.py has no RECIPES")


def section(package: Path) -> str:
    """What a package says about itself."""
    text = ast.get_docstring(ast.parse((package / "__init__.py").read_text(encoding="utf-8")))
    if text is None or "| why |" not in text:
        raise ValueError(f"{package.name}/__init__.py has no table of paper, here and why")
    return text


def recipes() -> str:
    """The sections of all recipes, after what they have in common."""
    common = section(RECIPES).split("\n\n", 1)[1]
    parts = [f"### In common\n\n{common}", *(f"### `{name}`\n\n{section(RECIPES / name)}" for name in names())]
    return "\n" + "\n\n".join(parts) + "\n\n"


def page(text: str) -> str:
    """The page with the recipes' part written anew."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    if not rest or not after:
        raise ValueError(f"{PAGE.name} has lost its marks")
    return before + BEGIN + recipes() + END + after


def main() -> int:
    """Write the page, or look whether it is up to date."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; fail when the page is out of date")
    options = parser.parse_args()
    text = PAGE.read_text(encoding="utf-8")
    found = page(text)
    if options.check:
        return int(found != text)
    PAGE.write_text(found, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
