"""Measure the shape of the code: files per folder, long functions, imports in circles. `make bench-code`."""

from __future__ import annotations

import argparse
import ast
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
APP = "apps/semisam"
LONG_FUNCTION = 60
MANY_PARAMETERS = 6

Function = ast.FunctionDef | ast.AsyncFunctionDef


def modules(app: Path) -> dict[str, Path]:
    """The app's modules by their dotted names, packages by the folder's name."""
    found = {}
    for file in sorted(app.rglob("*.py")):
        parts = file.relative_to(app).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return found


def imports(name: str, file: Path, known: dict[str, Path], *, typing: bool = True) -> set[str]:
    """The app's modules that a module imports, anywhere in it.

    Args:
        name: the module's dotted name.
        file: its source.
        known: all modules of the app.
        typing: count those that are imported for type annotations only.
    """
    package = name if file.name == "__init__.py" else name.rpartition(".")[0]
    found: set[str] = set()

    def add(target: str) -> None:
        while target and target not in known:
            target = target.rpartition(".")[0]
        if target and target != name:
            found.add(target)

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test) and not typing:
            return
        if isinstance(node, ast.Import):
            for alias in node.names:
                add(alias.name)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, *([base] if base else [])])
            for alias in node.names:
                add(f"{base}.{alias.name}")
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse(file.read_text()))
    return found


def graph(app: Path, *, typing: bool = True) -> dict[str, set[str]]:
    """Which module of the app imports which."""
    known = modules(app)
    return {name: imports(name, file, known, typing=typing) for name, file in known.items()}


def circles(edges: dict[str, set[str]]) -> list[list[str]]:
    """Groups of modules that import each other, directly or through others (Tarjan's components of two or more).

    A package and its own modules are one here: ``import a.b`` runs ``a`` first, whatever ``b`` wants of it.
    """
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def connect(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in sorted(edges.get(node, ())):
            if other not in index:
                connect(other)
                low[node] = min(low[node], low[other])
            elif other in stack:
                low[node] = min(low[node], index[other])
        if low[node] == index[node]:
            group = []
            while True:
                member = stack.pop()
                group.append(member)
                if member == node:
                    break
            if len(group) > 1:
                found.append(sorted(group))

    for node in sorted(edges):
        if node not in index:
            connect(node)
    return found


def functions(file: Path) -> Iterator[tuple[str, int, int]]:
    """Name, lines (decorators and docstring left out) and number of parameters of each function of a file."""

    def visit(node: ast.AST, prefix: str) -> Iterator[tuple[str, int, int]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, Function):
                body = child.body
                documented = isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant)
                lines = (child.end_lineno or 0) - child.lineno + 1
                if documented:
                    lines -= (body[0].end_lineno or 0) - body[0].lineno + 1
                every = [*child.args.posonlyargs, *child.args.args, *child.args.kwonlyargs]
                yield prefix + child.name, lines, len([a for a in every if a.arg not in ("self", "cls")])
                yield from visit(child, f"{prefix}{child.name}.")
            elif isinstance(child, ast.ClassDef):
                yield from visit(child, f"{prefix}{child.name}.")
            else:
                yield from visit(child, prefix)

    yield from visit(ast.parse(file.read_text()), "")


def lines_of(files: list[Path]) -> int:
    """How many lines some files have together."""
    return sum(len(file.read_text().splitlines()) for file in files)


def report(root: Path) -> str:
    """The figures as Markdown."""
    app = root / APP
    files = sorted(app.rglob("*.py"))
    every = [(str(f.relative_to(app)), *measured) for f in files for measured in functions(f)]
    longest = max(every, key=lambda each: each[2])
    edges = graph(app)
    folders = Counter(str(f.parent.relative_to(app)) for f in files if f.name != "__init__.py")
    tests, docs = sorted((root / "tests").rglob("*.py")), sorted((root / "docs").rglob("*.md"))
    out = [
        "| what | figure |",
        "|---|---|",
        f"| files of the app | {len(files)} in {len(folders)} folders |",
        f"| most files in one folder | {folders.most_common(1)[0][1]} in `{folders.most_common(1)[0][0]}` |",
        f"| lines of app, tests, docs | {lines_of(files)}, {lines_of(tests)}, {lines_of(docs)} |",
        f"| words of docs | {sum(len(d.read_text().split()) for d in docs)} |",
        f"| longest function | {longest[2]} lines: `{longest[0]}` `{longest[1]}` |",
        f"| functions over {LONG_FUNCTION} lines | {sum(e[2] > LONG_FUNCTION for e in every)} of {len(every)} |",
        f"| functions with over {MANY_PARAMETERS} parameters | {sum(e[3] > MANY_PARAMETERS for e in every)} |",
        f"| circles of imports, those for types included | {len(circles(edges))} |",
        f"| longest file | {max(lines_of([f]) for f in files)} lines |",
        "",
        "| folder | files |",
        "|---|---|",
        *[f"| `{name}` | {count} |" for name, count in sorted(folders.items())],
    ]
    for group in circles(edges):
        out.append(f"\ncircle: {', '.join(group)}")
    return "\n".join(out)


def main() -> None:
    """Print the figures of this project, or of another checkout of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", type=Path, default=ROOT, help="a checkout of the project (default: this one)")
    print(report(parser.parse_args().root))


if __name__ == "__main__":
    main()
