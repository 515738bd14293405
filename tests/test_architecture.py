"""Holds the house in order: who may import whom, and how large a file, a function and a signature may grow."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent / "src" / "separable"

# Rightmost first; a room imports only rooms of earlier lines. Rooms of one line never import each other.
ORDER = [
    ["errors"],
    ["files", "progress", "spec"],
    ["cost", "factor", "kernels"],
    ["nn", "filters", "runtime"],
    ["models"],
    ["graph"],
    ["plan"],
    ["tune"],
    ["engine", "export"],
    ["report"],
    ["pipeline"],
    ["demo"],
    ["cli"],
    ["__main__"],
]
LEVEL = {room: level for level, rooms in enumerate(ORDER) for room in rooms}
FRONT_DOOR = "__init__"
FORBIDDEN_NAMES = {"utils", "util", "helpers", "helper", "misc", "common", "base", "core"}
MAX_FILE_LINES, MAX_FUNCTION_LINES, MAX_PARAMETERS = 500, 60, 8


def violations(source: Path) -> list[str]:
    """Every broken rule below ``source``, one sentence each."""
    files = sorted(source.rglob("*.py"))
    trees = {path.relative_to(source): ast.parse(path.read_text(encoding="utf-8")) for path in files}
    found: list[str] = []
    for path, tree in trees.items():
        found += _names(path) + _size(source, path) + _docstring(path, tree) + _functions(path, tree)
        found += _imports(path, tree)
    return found + _cycles(trees)


def _names(path: Path) -> list[str]:
    found = [f"{path}: a room without a subject" for part in path.with_suffix("").parts if part in FORBIDDEN_NAMES]
    if _room(path) not in {*LEVEL, FRONT_DOOR}:
        found.append(f"{path}: room {_room(path)!r} is not listed")
    return found


def _size(source: Path, path: Path) -> list[str]:
    lines = len((source / path).read_text(encoding="utf-8").splitlines())
    return [f"{path}: {lines} lines, at most {MAX_FILE_LINES}"] if lines > MAX_FILE_LINES else []


def _docstring(path: Path, tree: ast.Module) -> list[str]:
    return [] if ast.get_docstring(tree) else [f"{path}: no docstring"]


def _functions(path: Path, tree: ast.Module) -> list[str]:
    found = []
    for function, owner in _defined(tree):
        lines = (function.end_lineno or 0) - function.lineno + 1
        if lines > MAX_FUNCTION_LINES:
            found.append(f"{path}: {function.name} has {lines} lines, at most {MAX_FUNCTION_LINES}")
        arguments = function.args
        names = [a.arg for a in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]
        count = len([name for name in names if name not in ("self", "cls")])
        # A layer's constructor may mirror the PyTorch layer that it stands in for.
        mirrors_a_layer = path.parts[0] == "nn" and function.name == "__init__" and owner is not None
        if count > MAX_PARAMETERS and not mirrors_a_layer:
            found.append(f"{path}: {function.name} has {count} parameters, at most {MAX_PARAMETERS}")
    return found


def _defined(tree: ast.Module) -> Iterator[tuple[ast.FunctionDef | ast.AsyncFunctionDef, ast.ClassDef | None]]:
    owners = {child: node for node in ast.walk(tree) if isinstance(node, ast.ClassDef) for child in node.body}
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node, owners.get(node)


def _imports(path: Path, tree: ast.Module) -> list[str]:
    room = _room(path)
    if room == FRONT_DOOR:
        return []
    found = []
    for module in _imported(path, tree):
        target = module.split(".")[1] if "." in module else FRONT_DOOR
        if target == "__version__":
            continue
        if target == FRONT_DOOR:
            found.append(f"{path}: imports the front door")
        elif target != room and LEVEL.get(target, 99) >= LEVEL.get(room, -1):
            found.append(f"{path}: {room} imports {target}, which is not below it")
    return found


def _imported(path: Path, tree: ast.Module) -> Iterator[str]:
    """Modules of this package that a file imports, wherever in the file the import stands."""
    package = ["separable", *path.parts[:-1]]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] == "separable")
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                module = ".".join([*package[: len(package) - node.level + 1], *filter(None, [node.module])])
            else:
                module = node.module or ""
            if module.split(".")[0] == "separable":
                yield from (f"{module}.{alias.name}" for alias in node.names)


def _cycles(trees: dict[Path, ast.Module]) -> list[str]:
    names = {_dotted(path): path for path in trees}
    edges = {
        name: {
            target
            for module in _imported(path, trees[path])
            for target in (module, module.rpartition(".")[0])
            if target in names and target != name and path.name != "__init__.py" and names[target].name != "__init__.py"
        }
        for name, path in names.items()
    }
    done: set[str] = set()
    found: list[str] = []

    def visit(name: str, trail: list[str]) -> None:
        if name in trail:
            found.append(f"{names[name]}: a cycle, {' → '.join([*trail[trail.index(name) :], name])}")
        elif name not in done:
            for target in sorted(edges[name]):
                visit(target, [*trail, name])
            done.add(name)

    for name in sorted(names):
        visit(name, [])
    return found


def _dotted(path: Path) -> str:
    parts = path.with_suffix("").parts
    return ".".join(["separable", *(parts[:-1] if parts[-1] == "__init__" else parts)])


def _room(path: Path) -> str:
    return path.with_suffix("").parts[0]


def test_the_package_keeps_every_rule_of_the_house() -> None:
    assert violations(SOURCE) == []


PLANTED = {
    "an upward import": ("spec.py", '"""D."""\nfrom separable.plan import choose\n', "spec imports plan"),
    "an upward import in a function": (
        "cost/counting.py", '"""D."""\ndef f():\n    import separable.graph.trace\n', "cost imports graph",
    ),
    "an upward import by a relative path": (
        "cost/counting.py", '"""D."""\nfrom ..graph import trace\n', "cost imports graph",
    ),
    "an import between rooms of one level": (
        "cost/counting.py", '"""D."""\nfrom separable.factor import spatial\n', "cost imports factor",
    ),
    "an import of the front door": ("cost/counting.py", '"""D."""\nimport separable\n', "front door"),
    "a room nobody listed": ("magic/trick.py", '"""D."""\n', "room 'magic' is not listed"),
    "a file without a subject": ("cost/utils.py", '"""D."""\n', "without a subject"),
    "a file of 600 lines": ("cost/counting.py", '"""D."""\n' + "x = 1\n" * 600, "601 lines"),
    "a function of 70 lines": (
        "cost/counting.py", '"""D."""\ndef f():\n' + "    x = 1\n" * 70, "f has 71 lines",
    ),
    "a function with 9 parameters": (
        "cost/counting.py", '"""D."""\ndef f(a, b, c, d, e, *, g, h, i, j): ...\n', "f has 9 parameters",
    ),
    "a file without a docstring": ("cost/counting.py", "x = 1\n", "no docstring"),
}  # fmt: skip


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_violation_is_caught(name: str, tmp_path: Path) -> None:
    file, text, complaint = PLANTED[name]
    (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / file).write_text(text, encoding="utf-8")
    assert any(complaint in violation for violation in violations(tmp_path))


def test_a_planted_cycle_is_caught(tmp_path: Path) -> None:
    (tmp_path / "cost").mkdir()
    (tmp_path / "cost" / "a.py").write_text('"""D."""\nfrom separable.cost.b import x\n', encoding="utf-8")
    (tmp_path / "cost" / "b.py").write_text('"""D."""\ndef f():\n    from separable.cost import a\n', encoding="utf-8")
    assert any("a cycle" in violation for violation in violations(tmp_path))


def test_a_layer_may_mirror_the_signature_of_the_layer_it_stands_in_for(tmp_path: Path) -> None:
    (tmp_path / "nn").mkdir()
    text = '"""D."""\nclass Layer:\n    def __init__(self, a, b, c, d, e, f, g, h, i): ...\n'
    (tmp_path / "nn" / "layer.py").write_text(text, encoding="utf-8")
    assert violations(tmp_path) == []
