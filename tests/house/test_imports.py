"""Imports run one way: from the commands down to the kernels, and never in a circle."""

import ast
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

ROOMS = (
    ("cli",),
    ("benchmarks",),
    ("reproduce",),
    ("experiments",),
    ("report",),
    ("runs",),
    ("stages",),
    ("analysis",),
    ("training",),
    ("optim", "siblings"),
    ("pruning",),
    ("criteria",),
    ("masks",),
    ("data", "models"),
    ("own", "scopes", "weights", "files", "stopping"),
    ("errors", "kernels"),
)
"""From the top floor down. Rooms of one floor do not import each other. `docs/architecture.md` says what is in each."""

FLOOR = {room: floor for floor, rooms in enumerate(ROOMS) for room in rooms}


@cache
def modules() -> dict[str, Path]:
    """Every module of the package, by name."""
    homes = {"sparselt": ROOT / "sparselt"}
    homes |= {f"sparselt.{name}": ROOT / name for name in ("kernels", "reproduce", "benchmarks")}
    found = {}
    for package, home in homes.items():
        for path in home.rglob("*.py"):
            parts = [package, *path.relative_to(home).with_suffix("").parts]
            found[".".join(part for part in parts if part != "__init__")] = path
    return found


def room_of(module: str) -> str:
    """The room that a module is in: an entry point, `__main__`, belongs to the commands."""
    parts = module.split(".")
    return "cli" if parts[-1] == "__main__" else parts[1] if len(parts) > 1 else ""


@cache
def imports(module: str) -> dict[str, int]:
    """The modules that one imports, at its top or in a function, with the line; not those for types only."""
    path, found = modules()[module], {}
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]

    def note(name: str, line: int) -> None:
        while name and name not in modules():
            name = name.rpartition(".")[0]
        if name and name != module:
            found.setdefault(name, line)

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            for child in node.orelse:
                visit(child)
            return
        if isinstance(node, ast.Import):
            for alias in node.names:
                note(alias.name, node.lineno)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                base = ".".join(package.split(".")[: len(package.split(".")) - node.level + 1] + [base]).strip(".")
            for alias in node.names:
                note(f"{base}.{alias.name}", node.lineno)
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse(path.read_text()))
    return found


@pytest.mark.parametrize("module", sorted(name for name in modules() if room_of(name)))
def test_imports_run_down(module):
    room = room_of(module)
    assert room in FLOOR, f"{module}: a room without a floor; give it one above"
    for other, line in imports(module).items():
        below = room_of(other)
        if below and below != room:
            assert FLOOR[below] > FLOOR[room], f"{modules()[module]}:{line}: {room} imports {below}, which is not below"


def test_no_modules_import_each_other_in_a_circle():
    state: dict[str, int] = {}

    def visit(module: str, path: tuple[str, ...]) -> None:
        if state.get(module) == 2:
            return
        assert state.get(module) != 1, f"circle: {' -> '.join((*path[path.index(module) :], module))}"
        state[module] = 1
        for other in imports(module):
            # A package's own __init__ runs before its modules; that is no arrow of theirs.
            if not module.startswith(f"{other}."):
                visit(other, (*path, module))
        state[module] = 2

    for module in modules():
        visit(module, ())


def test_kernels_know_nothing_of_the_package():
    for module in modules():
        if room_of(module) == "kernels":
            assert all(room_of(other) == "kernels" for other in imports(module)), module
