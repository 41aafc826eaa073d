"""Counts the code lines of labkit per room: all lines except docstrings, comments and blank lines.

python -m tests.bench.code_lines --before ../first_edition
"""

from __future__ import annotations

import ast
import io
import tokenize
from collections import Counter
from pathlib import Path

import click

ROOT = Path(__file__).resolve().parents[2]
MOVED = {  # benchmarks in the package of the first edition, and their names in tests/bench
    "evaluation/bench.py": "evaluate.py",
    "live/soak.py": "soak.py",
    "surrogates/bench.py": "surrogates.py",
    "sweeps/bench.py": "sweep.py",
    "training/bench_data.py": "data.py",
    "training/bench_kills.py": "kills.py",
    "training/bench_stack.py": "stack.py",
}
RENAMED = {  # rooms of the first edition, and their names now
    "container": "files",
    "describe": "schemes",
    "interop": "adoption",
    "lending": "state_guard",
    "study": "research",
    "sweeps": "research",
}
_LAYOUT = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
_DOCUMENTED = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def code_lines(text: str) -> int:
    """Count the lines of a Python file that contain code."""
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in _LAYOUT:
            lines |= set(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, _DOCUMENTED) and ast.get_docstring(node, clean=False) is not None:
            lines -= set(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    return len(lines)


def lines_per_room(package: Path) -> Counter[str]:
    """Count the code lines of every file or folder directly inside a package."""
    counts: Counter[str] = Counter()
    for path in package.rglob("*.py"):
        room = path.relative_to(package).parts[0].removesuffix(".py")
        counts[RENAMED.get(room, room)] += code_lines(path.read_text("utf-8"))
    return counts


def lines_in(files: list[Path]) -> int:
    """Count the code lines of files; files that do not exist have none."""
    return sum(code_lines(path.read_text("utf-8")) for path in files if path.exists())


@click.command()
@click.option(
    "--before",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder of another version of the repository, to compare with.",
)
def main(before: Path | None) -> None:
    """Print the code lines of labkit per room."""
    now = lines_per_room(ROOT / "labkit")
    earlier = lines_per_room(before / "labkit") if before else now
    for room in sorted(now | earlier, key=lambda room: (-now[room], -earlier[room])):
        print(_row(room, now[room], earlier[room] if before else None))
    print(_row("all", now.total(), earlier.total() if before else None))
    if before:
        old = lines_in([before / "labkit" / name for name in MOVED])
        new = lines_in([ROOT / "tests" / "bench" / name for name in MOVED.values()])
        print(
            f"\n{old} of the lines before lie in benchmarks that moved to tests/bench, where they have {new} lines now."
        )
        print(f"Without them, labkit had {earlier.total() - old:,} lines before.")


def _row(name: str, now: int, before: int | None) -> str:
    return f"{name:<14}{now:>8,}" + (f"{before:>8,}{now - before:>+8,}" if before is not None else "")


if __name__ == "__main__":
    main()
