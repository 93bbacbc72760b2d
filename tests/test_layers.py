"""Imports run one way, imports inside functions included."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tutelage import registry

SRC = Path(__file__).parent.parent / "src" / "tutelage"

LAYERS = [
    ["errors"],
    ["records"],
    ["registry", "progress", "files", "suggest"],
    ["prices", "json_schema", "yaml_file", "adapter", "gguf_file"],
    ["sandbox"],
    ["model"],
    ["signature"],
    ["tool"],
    ["python_file"],
    ["environment", "grader"],
    ["retrieval"],
    ["screening"],
    ["knowledge"],
    ["history"],
    ["memory"],
    ["tool_protocol", "advice"],
    ["agent"],
    ["prompt", "workflow"],
    ["episode"],
    ["tasks", "task_formats"],
    ["tools"],
    ["executor"],
    ["training"],
    ["models", "graders", "experience"],
    ["inbox"],
    ["environments"],
    ["workflows"],
    ["budget"],
    ["collector"],
    ["practice"],
    ["upkeep", "worth", "streams"],
    ["learner"],
    ["learners"],
    ["study"],
    ["commands"],
    ["cli"],
]
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}
TOGETHER = [{"tasks", "task_formats"}]  # a module and the folder of its implementations
HEAVY = {"torch", "transformers", "peft", "trl", "accelerate"}


def modules() -> list[Path]:
    return sorted(path for path in SRC.rglob("*.py") if path != SRC / "__init__.py")


def imported(path: Path) -> list[tuple[int, str]]:
    found: list[tuple[int, str]] = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: a relative import hides its layer"
            found.append((node.lineno, node.module or ""))
    return found


def layer_of(path: Path) -> str:
    return path.relative_to(SRC).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(SRC)))
def test_imports_run_one_way(path: Path) -> None:
    own = layer_of(path)
    assert own in RANK, f"{own} has no layer: add it to LAYERS where it belongs"
    for line, name in imported(path):
        parts = name.split(".")
        if parts[0] != "tutelage" or len(parts) == 1:
            continue
        other = parts[1]
        below = RANK[other] < RANK[own] or other == own or any({own, other} <= pair for pair in TOGETHER)
        assert below, f"{path}:{line}: {own} imports {other}, which stands beside or below it"


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(SRC)))
def test_heavy_packages_stay_in_training(path: Path) -> None:
    allowed = layer_of(path) == "training" or path.name == "huggingface.py"
    used = {name.split(".")[0] for _, name in imported(path)} & HEAVY
    assert allowed or not used, f"{path} imports {used}"


def test_no_circles_within_a_package() -> None:
    graph = {module_name(path): {name for _, name in imported(path) if name.startswith("tutelage.")} for path in modules()}
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, " -> ".join([*trail, name])
        if name not in done:
            for other in graph.get(name, set()):
                visit(other, (*trail, name))
            done.add(name)

    for name in graph:
        visit(name, ())


def module_name(path: Path) -> str:
    return ".".join(["tutelage", *path.relative_to(SRC).with_suffix("").parts]).removesuffix(".__init__")


TABLES = {
    "MODELS": registry.MODELS,
    "EMBEDDERS": registry.EMBEDDERS,
    "GRADERS": registry.GRADERS,
    "LEARNERS": registry.LEARNERS,
    "TOOLS": registry.TOOLS,
    "ENVIRONMENTS": registry.ENVIRONMENTS,
    "TASK_SOURCES": registry.TASK_SOURCES,
    "PUBLIC": registry.PUBLIC,
}


@pytest.mark.parametrize(("table", "name"), [(table, name) for table, names in TABLES.items() for name in names])
def test_every_name_in_the_registry_loads(table: str, name: str) -> None:
    assert registry.load(TABLES[table][name]) is not None
