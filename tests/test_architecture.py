"""Laws of the source tree: no circles, plain names, few files in a folder, short functions."""

import ast
import re
from collections import Counter
from functools import cache
from itertools import pairwise
from pathlib import Path
from statistics import median, quantiles

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("ingest", "analyzer", "alerts", "storage", "deploy")
FILES_IN_A_FOLDER = 16
LINES_OF_A_FILE = 350
LINES_OF_A_FUNCTION = 50
MIGRATIONS = "storage/db/migrations/versions"  # one file per schema, by design


def words(text: str) -> set[str]:
    return set(text.split())


GONE_CLASSES = words("""
    Account Agenda Asked CoverageKeeper Dead Door Held IncidentStore Kept KafkaFollower KafkaPlace
    KafkaShare KeepFor Lane Ledger LogContact LogWatch Look Member Muted News Notice Part Piece
    Pulse Read Reading RoleWatch Route Router Routing Said SaidOnce Seen Share Shown Snapshot
    Speaker SqliteShare Teller Told Trouble
""")
GONE_MODULES = {
    "deploy": words("acts admission asking data onlooker opening receiver report units"),
    "storage": words("asks dead events fields frames insert ledger opening rows said_once"),
    "alerts": words("addresses contact posting publish pulse reading route router routing steps"),
    "analyzer": words("agenda ledger plan speaker speaking"),
}
GONE_FILES = words("deploy/console.py deploy/doctor.py")  # elsewhere these names remain good

BARE_ENDING = re.compile(r"(ed|ing)$")
BARE_WORDS = words("""
    Ask Asks Begun Dead Drop Gone Hear Held Heard Keep Keeps Kept Known Left Lost Made Met Put
    Read Reads Said Say See Seen Send Sent Show Shown Speak Take Taken Tell Told Write Written
""")
OUTCOMES = words("Delivered Refused Retry")  # what happened to a delivery
NOUNS = words(
    "Finding Listing _Numbering QuestionWording ClockReading PartitionFeed _PartitionFeed"
)


@cache
def modules() -> dict[str, ast.Module]:
    """Map the dotted name of each product file to its syntax tree."""
    paths = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
    return {dotted(path): ast.parse(path.read_text(), str(path)) for path in paths}


def dotted(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


def file_of(module: str) -> Path:
    return ROOT / f"{module.replace('.', '/')}.py"


@cache
def nodes() -> list[tuple[str, ast.AST]]:
    """Return the imports, classes and functions of the product, each with its module."""
    kinds = ast.Import | ast.ImportFrom | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    return [
        (module, node)
        for module, tree in modules().items()
        for node in ast.walk(tree)
        if isinstance(node, kinds)
    ]


@cache
def classes() -> list[tuple[str, ast.ClassDef]]:
    return [(module, node) for module, node in nodes() if isinstance(node, ast.ClassDef)]


@cache
def functions() -> list[tuple[str, int]]:
    """Return each function with its length in lines, without its decorators."""
    return [
        (f"{module}.{node.name}", node.end_lineno - node.lineno + 1)
        for module, node in nodes()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno
    ]


@cache
def imports() -> set[tuple[str, str]]:
    """Return who imports whom: at the top of a file, in its functions and for its types."""
    found: set[tuple[str, str | None]] = set()
    for module, node in nodes():
        if isinstance(node, ast.Import):
            found |= {(module, product(name.name)) for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            source = node.module
            names = [name.name for name in node.names]
            found |= {(module, product(f"{source}.{name}") or product(source)) for name in names}
    return {(module, imported) for module, imported in found if imported}


def product(name: str) -> str | None:
    """Return the module that an import of this name runs, or None if it is not the product's."""
    return next((each for each in (name, f"{name}.__init__") if each in modules()), None)


def siblings() -> dict[str, dict[str, set[str]]]:
    """Map each folder to the imports between its children, files and sub-packages alike.

    A circle of files always shows as a circle of the children of their deepest common folder.
    """
    graphs: dict[str, dict[str, set[str]]] = {}
    for module, imported in imports():
        here, there = module.split("."), imported.split(".")
        if here != there:
            shared = next(n for n, name in enumerate(here) if there[n] != name)
            children = graphs.setdefault(".".join(here[:shared]), {})
            children.setdefault(here[shared], set()).add(there[shared])
    return graphs


def circle_in(graph: dict[str, set[str]]) -> list[str] | None:
    """Return one circle of the graph, its first node repeated at the end, or None."""
    done: set[str] = set()

    def search(node: str, path: list[str]) -> list[str] | None:
        if node in path:
            return [*path[path.index(node) :], node]
        if node in done:
            return None
        done.add(node)
        found = (search(each, [*path, node]) for each in sorted(graph.get(node, ())))
        return next(filter(None, found), None)

    return next((circle for node in sorted(graph) if (circle := search(node, []))), None)


def test_circle_is_found() -> None:
    assert circle_in({"a": {"b"}, "b": {"c"}, "c": {"b", "d"}}) == ["b", "c", "b"]
    assert circle_in({"a": {"b", "c"}, "b": {"c"}}) is None


def test_imports_between_the_packages_are_seen() -> None:
    assert siblings()[""]["deploy"] == {"ingest", "analyzer", "alerts", "storage"}


def test_files_and_sub_packages_import_in_no_circle() -> None:
    circles = {folder: circle_in(graph) for folder, graph in siblings().items()}
    assert {folder: circle for folder, circle in circles.items() if circle} == {}


def test_class_name_is_defined_once() -> None:
    named = sorted((node.name, module) for module, node in classes())
    assert [(a, b) for a, b in pairwise(named) if a[0] == b[0]] == []


def test_renamed_classes_stay_gone() -> None:
    assert [(module, node.name) for module, node in classes() if node.name in GONE_CLASSES] == []


@pytest.mark.parametrize("package", GONE_MODULES)
def test_renamed_modules_stay_gone(package: str) -> None:
    present = [name for name in modules() if name.split(".")[0] == package]
    assert present
    assert [name for name in present if name.split(".")[-1] in GONE_MODULES[package]] == []
    assert [file for file in GONE_FILES if (ROOT / file).exists()] == []


def is_bare(name: str) -> bool:
    """Return whether the last word of a class name is a participle or a verb."""
    last = re.findall("[A-Z]+[a-z0-9]*|[a-z0-9_]+", name)[-1]
    return last in BARE_WORDS or BARE_ENDING.search(last) is not None


def exceptions() -> set[str]:
    """Return the names of the product's exceptions, found by their bases."""
    bases = {node.name: {ast.unparse(base) for base in node.bases} for _, node in classes()}
    found = words("Exception OSError RuntimeError ValueError")
    while more := {name for name, base in bases.items() if base & found} - found:
        found |= more
    return found


@pytest.mark.parametrize("name", ["Seen", "_Awaited", "Reading", "LogHeld", "Asks"])
def test_bare_participle_is_found(name: str) -> None:
    assert is_bare(name)


def test_types_are_named_by_nouns() -> None:
    named = {node.name for _, node in classes() if is_bare(node.name)}
    assert named - exceptions() - OUTCOMES - NOUNS == set()


def test_folder_has_few_files() -> None:
    sizes = Counter(file_of(module).parent.relative_to(ROOT).as_posix() for module in modules())
    assert {f: n for f, n in sizes.items() if n > FILES_IN_A_FOLDER and f != MIGRATIONS} == {}


def test_file_is_short() -> None:
    sizes = {module: len(file_of(module).read_text().splitlines()) for module in modules()}
    assert {module: size for module, size in sizes.items() if size > LINES_OF_A_FILE} == {}


def test_function_is_short() -> None:
    assert {name: size for name, size in functions() if size > LINES_OF_A_FUNCTION} == {}


def test_most_functions_are_very_short() -> None:
    sizes = [size for _, size in functions()]
    assert median(sizes) <= 8
    assert quantiles(sizes, n=10)[-1] <= 20
