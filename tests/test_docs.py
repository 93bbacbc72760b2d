"""Docs cannot drift: every command, example and exported name in them is tried."""

from __future__ import annotations

import ast
import re
import shlex
from pathlib import Path

import pytest
import typer.main
import yaml

import tutelage as tt
from tutelage.cli import app
from tutelage.registry import PUBLIC
from tutelage.study.build import build_learner
from tutelage.study.config import load_agent, load_study
from tutelage.study.sections import StudyFile

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "CONTRIBUTING.md", *sorted((ROOT / "examples").rglob("*.md"))]
COMMAND = re.compile(r"(?:^|`)(tutelage [a-z][^`\n]*)", re.MULTILINE)


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(), re.DOTALL)


def commands() -> list[tuple[str, str]]:
    return [(page.name, found) for page in PAGES for found in COMMAND.findall(page.read_text())]


@pytest.mark.parametrize(("page", "command"), commands())
def test_every_command_exists_with_its_options(page: str, command: str):
    words = shlex.split(command.split("#", maxsplit=1)[0])[1:]
    found = typer.main.get_command(app)
    while hasattr(found, "commands"):
        if not words:  # a group by its own name, as in "the commands of `tutelage knowledge`"
            return
        alternatives = words.pop(0).split("|")
        assert set(alternatives) <= set(found.commands), f"{page}: {command}"
        found = found.commands[alternatives[0]]
    options = {option for parameter in found.params for option in parameter.opts}
    for word in words:
        if word.startswith("--"):
            assert word in options | {"--help"}, f"{page}: {command}"


def test_make_targets_in_the_docs_exist():
    makefile = (ROOT / "Makefile").read_text()
    for page in PAGES:
        for target in re.findall(r"(?:^|`)make ([a-z]+)", page.read_text(), re.MULTILINE):
            assert re.search(rf"^{target}:", makefile, re.MULTILINE), f"{page.name}: make {target}"


def test_links_lead_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_every_exported_name_is_documented_and_typed():
    page = (ROOT / "docs" / "api.md").read_text()
    assert re.findall(r"`tt\.(\w+)`", page) == sorted(PUBLIC, key=str.lower)
    for name in PUBLIC:
        assert getattr(tt, name).__doc__, name
    source = ast.parse((ROOT / "src" / "tutelage" / "__init__.py").read_text())
    typed = {alias.asname for node in ast.walk(source) if isinstance(node, ast.ImportFrom) for alias in node.names if alias.asname}
    assert typed == set(PUBLIC)
    assert set(tt.__all__) == {*PUBLIC, "__version__"}


def test_the_decorator_is_not_hidden_by_its_module():
    import tutelage.tool

    assert tutelage.tool is tt.tool
    assert callable(tt.tool)


def test_yaml_example_of_the_readme(tmp_path):
    (text,) = blocks(ROOT / "README.md", "yaml")
    assert len(text.splitlines()) <= 15
    StudyFile.model_validate(yaml.safe_load(text))
    for path in (ROOT / "examples" / "helpdesk").iterdir():
        if path.is_file():
            (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "study.yaml").write_text(text)
    study = load_study(tmp_path / "study.yaml", check_models=False)
    assert list(study.learners) == ["exemplars-fixed", "exemplars-meaning", "reflexion", "expel+curate"]
    study.check()


@pytest.mark.model
def test_python_example_of_the_readme(monkeypatch, capsys):
    (code,) = blocks(ROOT / "README.md", "python")
    assert len([line for line in code.splitlines() if line.strip()]) <= 15
    monkeypatch.chdir(ROOT)
    exec(compile(code, "README.md", "exec"), {})  # noqa: S102 (our own example)
    assert len(capsys.readouterr().out) > 40


def test_python_examples_of_the_docs():
    for code in blocks(ROOT / "docs" / "tools.md", "python"):
        names: dict = {}
        exec(compile(code, "tools.md", "exec"), names)  # noqa: S102 (our own example)
        assert names["convert"](10.0) == "6.2 mi"
        assert names["convert"].spec.parameters["properties"]["amount"]["description"] == "How far."


@pytest.mark.parametrize(
    "page",
    [
        "adapters.md",
        "environments.md",
        "expel.md",
        "judges.md",
        "knowledge.md",
        "languages.md",
        "path-star.md",
        "reflexion.md",
        "sandbox.md",
        "upkeep.md",
        "workflows.md",
    ],
)
def test_other_python_examples_run(page: str, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names: dict = {"__name__": "example"}  # the blocks of a page follow one another
    for code in blocks(ROOT / "docs" / page, "python"):
        exec(compile(code, page, "exec"), names)  # noqa: S102 (our own example)


@pytest.mark.torch
def test_python_example_of_vision(tmp_path, monkeypatch):
    pytest.importorskip("torch", reason="extra `train` is not installed")
    pytest.importorskip("PIL", reason="extra `vision` is not installed")
    monkeypatch.chdir(tmp_path)
    names: dict = {"__name__": "example"}
    for code in blocks(ROOT / "docs" / "vision.md", "python"):
        exec(compile(code, "vision.md", "exec"), names)  # noqa: S102 (our own example)


@pytest.mark.torch
@pytest.mark.model
def test_python_example_of_training(tmp_path, monkeypatch, capsys):
    pytest.importorskip("torch", reason="extra `train` is not installed")
    monkeypatch.chdir(tmp_path)
    (code,) = blocks(ROOT / "docs" / "training.md", "python")
    exec(compile(code, "training.md", "exec"), {"__name__": "example"})  # noqa: S102 (our own example)
    name, first, last = capsys.readouterr().out.split()[-3:]
    assert re.fullmatch(r"[0-9a-f]{16}", name)
    assert float(last) < float(first)


def learners_in(text: str) -> list:
    data = yaml.safe_load(text)
    return data.get("learners", []) if isinstance(data, dict) else []


@pytest.mark.parametrize("page", ["agile.md", "expel.md", "path-star.md", "reflexion.md", "training.md", "upkeep.md", "vision.md"])
def test_learners_in_the_docs_can_be_built(page: str, tmp_path):
    (tmp_path / "other.json").write_text(tt.Knowledge(insights=(tt.Insight(text="Be brief."),)).model_dump_json())
    entries = [entry for text in blocks(ROOT / "docs" / page, "yaml") for entry in learners_in(text)]
    assert entries
    for entry in entries:
        text = re.sub(r"[\w./-]+\.json", str(tmp_path / "other.json"), yaml.safe_dump(entry))
        assert build_learner(yaml.safe_load(text), tmp_path)[0]


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*/*.yaml")), ids=lambda path: f"{path.parent.name}/{path.name}")
def test_studies_of_the_examples_can_be_loaded(path: Path):
    if path.parent.name == "reasoning":
        pytest.importorskip("reasoning_gym", reason="needs reasoning-gym (pip install 'tutelage[reasoning]')")
    if path.parent.name == "vision" and not (path.parent / "model").is_dir():
        pytest.skip("its model is made by make_model.py")
    study = load_study(path, check_models=False)
    study.check()
    assert study.learners


@pytest.mark.parametrize("page", ["workflows.md"])
def test_agents_in_the_docs_can_be_built(page: str, tmp_path):
    for text in blocks(ROOT / "docs" / page, "yaml"):
        (tmp_path / "agent.yaml").write_text(yaml.safe_dump(yaml.safe_load(text)["agent"]))
        assert load_agent(tmp_path / "agent.yaml").workflow is not None


def test_the_project_speaks_of_itself_alone():
    for page in [*PAGES, *sorted((ROOT / "src").rglob("*.py"))]:
        assert not re.search(r"/work/|/tmp/venv|helper-\d", page.read_text()), page
