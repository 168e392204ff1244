"""
The architecture, held by a test: who may import whom, what is pure, and how large a file may grow.

Each forbidden edge has its reason here, so that whoever trips over it learns why before asking to move it.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

_ROOT = Path(__file__).parents[1]
_PACKAGES = ("certs", "config", "connector", "gateway", "relay", "sallyport", "tunnel")
_LONGEST_FILE = 500  # lines; 300 is what we want

_ENDS = frozenset({"gateway", "relay", "connector"})
_LEAF = "a leaf: anybody may lean on it because it leans on nobody"
_APART = "the ends share only what travels: one end must not break, or be able to read, another"
_ROOT_ONLY = "the command mounts the packages; a package that imports it cannot be used without it"

# importer -> imported -> why not. "tunnel" is its pure root, "tunnel.net" the part that does I/O.
_FORBIDDEN: dict[str, dict[str, str]] = {
    "tunnel": {
        "tunnel.net": "the protocol is pure so that it can be tested without time, sockets and tasks",
        **dict.fromkeys(("certs", "config", *_ENDS), "what travels knows nothing of who sends it"),
        "sallyport": _ROOT_ONLY,
    },
    "tunnel.net": {
        **dict.fromkeys(
            ("certs", "config", *_ENDS), "carriers take ready contexts and numbers, no files and no roles"
        ),
        "sallyport": _ROOT_ONLY,
    },
    "certs": dict.fromkeys(("tunnel", "tunnel.net", "config", *_ENDS), _LEAF) | {"sallyport": _ROOT_ONLY},
    "config": dict.fromkeys(("tunnel", "tunnel.net", "certs", *_ENDS), _LEAF) | {"sallyport": _ROOT_ONLY},
    **{end: dict.fromkeys(_ENDS - {end}, _APART) | {"sallyport": _ROOT_ONLY} for end in _ENDS},
    "sallyport": {},
}

# What a pure file must not import: each would bring in a clock, chance, the network or a scheduler.
_IMPURE = frozenset(
    {
        *("anyio", "asyncio", "concurrent", "multiprocessing", "os", "random", "sched", "secrets", "select"),
        *("selectors", "signal", "socket", "structlog", "subprocess", "threading", "time", "uuid", "uvloop"),
    }
)
_CLOCK_CALLS = frozenset({"now", "utcnow", "today"})
_PURE = [
    *sorted((_ROOT / "tunnel").glob("*.py")),
    *(
        _ROOT / name
        for name in (
            *("certs/names.py", "certs/rules.py", "certs/verify.py"),
            *("config/document.py", "config/fields.py", "config/sections.py"),
            *("connector/local_request.py", "connector/refusals.py", "connector/snippets.py"),
            *("gateway/policy.py", "gateway/raw_path.py", "gateway/routes.py", "gateway/upstream_url.py"),
            *("gateway/backoff.py", "gateway/status.py", "gateway/whole_status.py"),
            *("sallyport/bench_figures.py", "sallyport/hops.py"),
        )
    ),
]

_JUNK_DRAWERS = frozenset({"utils", "util", "common", "helpers", "helper", "manager", "base", "core", "misc"})
_TOP_FOLDERS = frozenset({*_PACKAGES, "tests", "bench", "deploy", "docs"})


def _sources(package: str) -> Iterator[Path]:
    """Yield the files of a package; sallyport/ holds symlinks to the others, which are not its own."""
    for path in sorted((_ROOT / package).rglob("*.py")):
        inside = path.relative_to(_ROOT / package).parts
        if not (package == "sallyport" and inside[0] in _PACKAGES):
            yield path


def _all_sources() -> list[Path]:
    return [path for package in _PACKAGES for path in _sources(package)]


def _layer(path: Path) -> str:
    parts = path.relative_to(_ROOT).parts
    return "tunnel.net" if parts[:2] == ("tunnel", "net") else parts[0]


def _imports(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Yield the modules that a file imports anywhere in it, with their lines; ``from a import b`` as a.b."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: write imports from sallyport on"
            yield from ((f"{node.module}.{alias.name}", node.lineno) for alias in node.names)


def _imported_layer(module: str) -> str | None:
    """Return the layer that an imported name of ours lies in; None for a library or ``__version__``."""
    parts = module.split(".")
    if parts[0] != "sallyport" or len(parts) < 2 or parts[1] == "__version__":
        return None
    if parts[1] == "tunnel" and parts[2:3] == ["net"]:
        return "tunnel.net"
    return parts[1] if parts[1] in _PACKAGES else "sallyport"


def _parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), filename=str(path))


def _name(path: Path) -> str:
    return str(path.relative_to(_ROOT))


@pytest.mark.parametrize("path", _all_sources(), ids=_name)
def test_imports_go_one_way(path: Path) -> None:
    """sallyport → {gateway, relay, connector} → tunnel.net → tunnel; certs and config are leaves."""
    forbidden = _FORBIDDEN[_layer(path)]
    for module, line in _imports(_parse(path)):
        layer = _imported_layer(module)
        assert layer not in forbidden, f"{_name(path)}:{line} imports {module}: {forbidden[str(layer)]}"


@pytest.mark.parametrize("path", sorted(_ROOT.glob("*/errors.py")), ids=_name)
def test_errors_import_nothing_of_ours(path: Path) -> None:
    """Everybody imports the errors, so they can import nobody."""
    assert not [module for module, _line in _imports(_parse(path)) if module.startswith("sallyport")]


@pytest.mark.parametrize("path", _PURE, ids=_name)
def test_pure_files_have_no_clock_chance_network_or_tasks(path: Path) -> None:
    """Time and randomness are arguments there, so that every moment can be tested."""
    tree = _parse(path)
    for module, line in _imports(tree):
        assert module.partition(".")[0] not in _IMPURE, f"{_name(path)}:{line} imports {module}"
    for node in ast.walk(tree):
        assert not isinstance(node, (ast.Await, ast.AsyncFunctionDef, ast.AsyncFor, ast.AsyncWith)), (
            f"{_name(path)}:{node.lineno} awaits"
        )
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            assert node.func.attr not in _CLOCK_CALLS, f"{_name(path)}:{node.lineno} reads a clock"


@pytest.mark.parametrize("path", [*_all_sources(), *sorted((_ROOT / "tests").rglob("*.py"))], ids=_name)
def test_files_stay_readable(path: Path) -> None:
    """No file is so long that nobody reads it, none is named for what it is not, each says what it is."""
    assert len(path.read_text().splitlines()) <= _LONGEST_FILE
    assert path.stem not in _JUNK_DRAWERS
    assert ast.get_docstring(_parse(path)), f"{_name(path)} does not begin with what it is"


def test_top_level_is_the_map_of_the_design() -> None:
    """A folder is added to the design before it is added here."""
    made_by_tools = {"build", "dist", "node_modules", "sallyport.egg-info"}
    folders = {p.name for p in _ROOT.iterdir() if p.is_dir() and not p.name.startswith(".")}
    assert folders - made_by_tools <= _TOP_FOLDERS
    assert folders >= {*_PACKAGES, "tests"}


@pytest.mark.parametrize("package", [name for name in _PACKAGES if name != "sallyport"])
def test_packages_are_linked_into_the_distribution(package: str) -> None:
    """sallyport/ holds a relative symlink to each; see sallyport/__init__.py."""
    link = _ROOT / "sallyport" / package
    assert link.is_symlink()
    assert link.readlink() == Path("..", package)
