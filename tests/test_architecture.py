"""Modules of labkit import only from earlier rooms and never in a circle, and no file has too many lines."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "labkit"
MOST_LINES = 400

# A module imports from its own room and from earlier rooms. Rooms in the same line may import from each other.
ORDER = (
    ("disk", "checks", "paths", "theme", "seeds", "progress", "statistics", "first_edition", "defaults", "rans"),
    ("denormals",),
    ("surrogates",),
    ("schedules",),
    ("schemes",),
    ("entropy",),
    ("state_guard",),
    ("fixed_point",),
    ("adoption",),
    ("networks",),
    ("datasets",),
    ("training",),
    ("evaluation",),
    ("files",),
    ("web",),
    ("analysis",),
    ("diagnosis",),
    ("research",),
    ("live",),
    ("course",),
    ("cli",),
)
RANKS = {room: rank for rank, rooms in enumerate(ORDER) for room in rooms}
SURROGATES_IMPORT = {"surrogates", "checks", "disk"}  # surrogates can be copied into another project


def module_name(path: Path, package: Path) -> str:
    parts = [package.name, *path.relative_to(package).with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def room(module: str) -> str:
    """Return the room of a module: the name after `labkit`."""
    return module.partition(".")[2].partition(".")[0]


def dotted(node: ast.AST) -> str:
    """Return `a.b.c` for the expression `a.b.c`, or an empty string."""
    if isinstance(node, ast.Attribute) and (start := dotted(node.value)):
        return f"{start}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def imported_names(tree: ast.AST, module: str, is_package: bool) -> Iterator[str]:
    """Yield the dotted names that a module imports anywhere in its text, inside functions and conditions too."""
    package_names = set()  # names by which a module calls the whole package
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name
                if alias.name == "labkit":
                    package_names.add(alias.asname or "labkit")
        elif isinstance(node, ast.ImportFrom):
            source = node.module or ""
            if node.level:
                parents = module.split(".")[: len(module.split(".")) - node.level + is_package]
                source = ".".join([*parents, *source.split(".")]).strip(".")
            for alias in node.names:
                yield f"{source}.{alias.name}"
        elif isinstance(node, ast.Call) and dotted(node.func).endswith("import_module"):
            yield from (str(argument.value) for argument in node.args[:1] if isinstance(argument, ast.Constant))
    for node in ast.walk(tree):
        name = dotted(node)
        if name.partition(".")[0] in package_names and "." in name:
            yield f"labkit.{name.partition('.')[2]}"


def imports(package: Path) -> dict[str, set[str]]:
    """Return the modules of the package that each of its modules imports."""
    files = {module_name(path, package): path for path in sorted(package.rglob("*.py"))}
    graph: dict[str, set[str]] = {}
    for module, path in files.items():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        graph[module] = set()
        for name in imported_names(tree, module, path.name == "__init__.py"):
            while name and name not in files:  # an object of a module, or a module of another package
                name = name.rpartition(".")[0]
            graph[module] |= {name} - {module, "", package.name}
    del graph[package.name]  # it lists every room and imports them lazily
    return graph


def upward(graph: dict[str, set[str]]) -> list[str]:
    """Return the imports from later rooms, and the imports of surrogates from rooms that it may not use."""
    violations = {(a, b) for a, targets in graph.items() for b in targets if RANKS[room(a)] < RANKS[room(b)]}
    violations |= {
        (a, b)
        for a, targets in graph.items()
        for b in targets
        if room(a) == "surrogates" and room(b) not in SURROGATES_IMPORT
    }
    return sorted(f"{a} → {b}" for a, b in violations)


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Return the groups of modules that import each other, directly or through others."""
    reached = {}
    for start in graph:
        stack, visited = list(graph[start]), set()
        while stack:
            if (module := stack.pop()) not in visited:
                visited.add(module)
                stack.extend(graph[module])
        reached[start] = visited
    groups = {tuple(sorted(b for b in reached[a] if a in reached[b])) for a in graph if a in reached[a]}
    return sorted(map(list, groups))


@pytest.fixture(scope="module")
def graph() -> dict[str, set[str]]:
    return imports(PACKAGE)


def test_every_room_has_a_place_in_the_order(graph):
    assert {room(module) for module in graph} <= set(RANKS)


def test_no_module_imports_from_a_later_room(graph):
    violations = upward(graph)
    print(f"upward imports: {len(violations)}", *violations, sep="\n")
    assert violations == []


def test_no_modules_import_each_other_in_a_circle(graph):
    groups = circles(graph)
    print(f"circles: {len(groups)}", *groups, sep="\n")
    assert groups == []


def test_test_files_have_different_names():
    """pytest takes two files of one name in folders without `__init__.py` for one module, and collects one of them."""
    names = [path.name for path in Path(__file__).parent.rglob("test_*.py")]
    assert sorted(names) == sorted(set(names))


def test_no_file_has_too_many_lines():
    lines = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in PACKAGE.rglob("*.py")}
    longest = [(count, str(path.relative_to(PACKAGE))) for path, count in lines.items() if count >= MOST_LINES]
    print(f"largest file: {max(lines.values())} lines", *sorted(longest, reverse=True), sep="\n")
    assert longest == []


def test_planted_upward_imports_and_circles_are_found(tmp_path):
    package = tmp_path / "labkit"
    files = {
        "__init__.py": "from labkit.cli import main",
        "disk.py": "def f():\n    from labkit import theme",
        "theme.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import labkit.disk",
        "surrogates/__init__.py": "from .hard import Round",
        "surrogates/hard.py": "from labkit.schedules import parse",
        "schedules.py": "import labkit as lk\nlk.live.start()",
        "live/__init__.py": "",
        "live/engine.py": "from . import panel",
        "live/panel.py": "from labkit.live import engine",
    }
    for name, text in files.items():
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / name).write_text(text)
    graph = imports(package)
    assert upward(graph) == [
        "labkit.schedules → labkit.live",
        "labkit.surrogates.hard → labkit.schedules",
    ]
    assert circles(graph) == [["labkit.disk", "labkit.theme"], ["labkit.live.engine", "labkit.live.panel"]]
