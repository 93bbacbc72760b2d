"""Finding the Python in what a model wrote. Nothing here is run; whatever cannot be parsed is data, not an error."""

from __future__ import annotations

import ast
import re
import textwrap
import warnings

LONGEST = 200_000
"""Characters up to which a text is looked at."""

_FENCE = re.compile(r"^[ \t]*(?:```|~~~)[^\n]*\n(.*?)(?:^[ \t]*(?:```|~~~)|\Z)", re.MULTILINE | re.DOTALL)
_ASSERT = re.compile(r"^\s*(?:[-*>]\s+|\d+[.)]\s+)?`?(assert\b.*?)`?\s*$")


def parse(text: str) -> ast.Module | None:
    """The syntax tree, or None where the text is no Python (or more of it than anyone would write)."""
    if len(text) > LONGEST:
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd escapes in strings: the model's style
            return ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def blocks(text: str) -> list[str]:
    """The fenced blocks of a text; one whose end is missing goes on to the end."""
    return [textwrap.dedent(found) for found in _FENCE.findall(text[:LONGEST])]


def defines(tree: ast.Module, name: str) -> bool:
    """Whether the module itself gives `name` a value."""
    for item in tree.body:
        if isinstance(item, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and item.name == name:
            return True
        targets = item.targets if isinstance(item, ast.Assign) else [item.target] if isinstance(item, ast.AnnAssign) else []
        if any(isinstance(target, ast.Name) and target.id == name for target in targets):
            return True
    return False


def find_code(answer: str, entry: str, prompt: str = "") -> str | None:
    """The program in an answer that is to define `entry`; None where there is no Python in it.

    Of the fenced blocks the last that defines `entry`; else the whole text, if it does; else, where `prompt` is the beginning of the
    function, the body that completes it; else the longest that parses at all. Imports and helpers of the prompt stand before the code.
    """
    texts = [*reversed(blocks(answer)), answer]
    parsed = [(text, tree) for text in texts if text.strip() and (tree := parse(text)) is not None]
    for text, tree in parsed:
        if defines(tree, entry):
            return _after_prompt(text, prompt)
    if prompt:
        for text in texts:
            if text.strip() and (whole := _completed(prompt, text, entry)):
                return whole
    return max((text for text, _ in parsed), key=len, default=None)


def _after_prompt(text: str, prompt: str) -> str:
    if not prompt or "from __future__" in text or parse(prompt) is None:  # such an import has to come first
        return text
    return f"{prompt}\n\n{text}"


def _completed(prompt: str, body: str, entry: str) -> str | None:
    """The prompt with a function body after it, whose first line may have lost its indent, or all of it."""
    alone = parse(body)
    if alone is not None and any(isinstance(item, ast.FunctionDef | ast.ClassDef) for item in alone.body):
        return None  # a program of its own, which lacks the function
    for text in (body, textwrap.indent(textwrap.dedent(body), "    "), "    " + body.lstrip()):
        whole = prompt.rstrip() + "\n" + text.strip("\n") + "\n"
        tree = parse(whole)
        if tree is not None and _has_body(tree, entry):
            return whole
    return None


def _has_body(tree: ast.Module, entry: str) -> bool:
    """Whether the function does more than describe itself."""
    functions = [item for item in tree.body if isinstance(item, ast.FunctionDef) and item.name == entry]
    return any(not isinstance(item, ast.Expr) for function in functions for item in function.body)


def self_tests(text: str, entry: str, cap: int = 6) -> tuple[str, ...]:
    """The `assert` statements in a model's reply that parse and call `entry`, each once, in their order, at most `cap`.

    They are taken from fenced blocks, and line by line from what does not parse as a whole. Their truth is the model's word alone.
    """
    found: dict[str, None] = {}
    for part in blocks(text) or [text]:
        for statement in _asserts(part):
            tree = parse(statement)
            if tree is not None and _calls(tree, entry):
                found.setdefault(statement)
    return tuple(found)[: max(0, cap)]


def _asserts(text: str) -> list[str]:
    tree = parse(text)
    if tree is None:
        return [found[1].strip() for line in text[:LONGEST].splitlines() if (found := _ASSERT.match(line))]
    nodes = sorted((node for node in ast.walk(tree) if isinstance(node, ast.Assert)), key=lambda node: node.lineno)
    return [ast.get_source_segment(text, node) or ast.unparse(node) for node in nodes]


def _calls(tree: ast.Module, entry: str) -> bool:
    calls = (node.func for node in ast.walk(tree) if isinstance(node, ast.Call))
    return any(isinstance(called, ast.Name) and called.id == entry for called in calls)
