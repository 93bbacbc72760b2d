"""Files of rows: checking them against a model's template and tokenizer, and making them from a run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.rule import Rule
from rich.text import Text

from tutelage.commands.episodes import open_run
from tutelage.errors import InputError, MissingExtra
from tutelage.experience.expert_steps import episode_steps
from tutelage.experience.store import Store
from tutelage.experience.views import preference_rows, sft_rows
from tutelage.records import Experience, Task
from tutelage.training.row_files import AnyRow, read_rows, write_rows

if TYPE_CHECKING:
    from tutelage.training.chat import Rendering
    from tutelage.training.lint import Checked, Lint, Problem

BARS = 8
"""Classes of the histogram of lengths."""
LISTED = 20
"""Findings of a kind that are listed."""


def check_rows(file: Path, model: str, *, show: int = 0, max_length: int | None = None) -> bool:
    """Check a file of rows and print what was found; whether every row can be learned from.

    show: so many rows with the tokens that bear loss marked. Raises `InputError` for a file or a model that cannot be read.
    """
    rows = read_rows(file)
    tokenizer = _tokenizer(model)
    from tutelage.training.lint import lint

    found = lint(tokenizer, rows, max_length=max_length)
    console = Console()
    for checked in [one for one in found.checked if one.renderings][:show]:
        _print_row(console, tokenizer, checked)
    print_summary(console, found, max_length)
    return not found.refused


def _tokenizer(model: str) -> Any:
    try:
        from tutelage.training.base import base_of, find_base, load_tokenizer

        return load_tokenizer(base_of(model) if model.startswith(("gguf:", "hf:")) else find_base(model))
    except ImportError as absent:
        raise MissingExtra(absent.name or "transformers", "pip install 'tutelage[train]'", why="checking rows") from None


def _print_row(console: Console, tokenizer: Any, checked: Checked) -> None:
    console.print(Rule(f"row {checked.row}  {escape(checked.source)}", align="left"))
    for rendering in checked.renderings:
        marked = marked_text(tokenizer, rendering)
        console.print(marked if console.is_terminal else Text(harmless(bracketed(rendering))), soft_wrap=True)


def marked_text(tokenizer: Any, rendering: Rendering) -> Text:
    """The row in colours, token by token: green and underlined bears loss, the rest is dim; special tokens are reversed."""
    added = tokenizer.added_tokens_decoder.items()
    special = {*tokenizer.all_special_ids, *(id_ for id_, token in added if token.special)}
    text = Text()
    for ids, learned in _runs(rendering.row.ids, rendering.row.mask, special):
        style = "green underline" if learned else "dim"
        text.append(harmless(_decoded(tokenizer, ids)), style=f"{style} reverse" if ids[0] in special else style)
    return text


def _runs(ids: Sequence[int], mask: Sequence[bool], special: set[int]) -> list[tuple[list[int], bool]]:
    """Tokens in a row that look alike, together: one character may be several tokens. A special token stands alone."""
    runs: list[tuple[list[int], bool]] = []
    for id_, learned in zip(ids, mask, strict=True):
        if runs and runs[-1][1] == learned and not {id_, runs[-1][0][-1]} & special:
            runs[-1][0].append(id_)
        else:
            runs.append(([id_], learned))
    return runs


def _decoded(tokenizer: Any, ids: Sequence[int]) -> str:
    return str(tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False))


def harmless(text: str) -> str:
    """Control characters spelled out, but for tabs and new lines: a row is anyone's text, and the terminal would obey it."""
    return "".join(char if char in "\t\n" or char.isprintable() else ascii(char)[1:-1] for char in text)


def bracketed(rendering: Rendering) -> str:
    """The row without colours: what bears loss stands between [[ and ]]."""
    pieces, place = [], 0
    for span in rendering.spans:
        pieces += [rendering.text[place : span.start], "[[", rendering.text[span.start : span.end], "]]"]
        place = span.end
    return "".join([*pieces, rendering.text[place:]])


def print_summary(console: Console, found: Lint, max_length: int | None) -> None:
    """Counts, the histogram of lengths, and the findings: file and line, what is wrong, and the way out."""
    summary = found.summary
    share = f"{summary.learned / summary.tokens:.1%}" if summary.tokens else "none"
    console.print(f"{summary.rows} rows, {summary.refused} of them refused")
    console.print(f"{summary.tokens} tokens, {summary.learned} bear loss ({share}); the longest sequence has {summary.longest}")
    if max_length is not None:
        console.print(f"{summary.too_long} sequences are longer than {max_length} tokens")
    for line in histogram(summary.lengths):
        console.print(line, highlight=False)
    _print_problems(console, "warnings", found.warnings)
    _print_problems(console, "refused", found.refused)


def _print_problems(console: Console, title: str, problems: Sequence[Problem]) -> None:
    if problems:
        console.print(f"\n[bold]{title}[/bold] ({len(problems)})")
    for problem in problems[:LISTED]:
        console.print(f"  {escape(problem.source)}: row {problem.row}: {escape(problem.what)}", soft_wrap=True, highlight=False)
    if len(problems) > LISTED:
        console.print(f"  and {len(problems) - LISTED} more")


def histogram(lengths: Sequence[int], width: int = 40) -> list[str]:
    """Lengths in classes of equal width, a line each: the range in tokens, a bar, the number of sequences."""
    if not lengths:
        return []
    low = min(lengths)
    step = max(1, -(-(max(lengths) - low + 1) // BARS))
    counts = [0] * (-(-(max(lengths) - low + 1) // step))
    for length in lengths:
        counts[(length - low) // step] += 1
    return [
        f"{low + place * step:>7} to {low + (place + 1) * step - 1:<7} {'#' * -(-count * width // max(counts))} {count}"
        for place, count in enumerate(counts)
    ]


def make_rows(run: Path, kind: str, out: Path, *, threshold: float = 1.0, arm: str | None = None) -> int:
    """Write the rows that a run's practice gives to a file; how many there are. The test split's episodes are never learned from.

    Raises `InputError` where the folder holds no run, no such arm has practised, or there is not a single row.
    """
    store = open_run(run)
    practised = [name for name in store.arms() if name.endswith("(practice)")]
    if arm is not None and f"{arm.removesuffix(' (practice)')} (practice)" not in practised:
        raise InputError(f"no arm `{arm}` has practised. {_arms(practised)}", field="--arm")
    chosen = practised if arm is None else [f"{arm.removesuffix(' (practice)')} (practice)"]
    experiences = [experience for name in chosen for experience in store.experiences(arm=name)]
    rows = _rows(kind, store, experiences, threshold)
    if not rows:
        raise InputError(_nothing(kind, experiences, threshold), file=run)
    write_rows(out, rows)
    return len(rows)


def _arms(practised: Sequence[str]) -> str:
    names = ", ".join(name.removesuffix(" (practice)") for name in practised)
    return f"Arms that have: {names}" if names else "None has: no learner of this run collected episodes"


def _rows(kind: str, store: Store, experiences: Sequence[Experience], threshold: float) -> list[AnyRow]:
    if kind == "sft":
        return list(sft_rows(experiences, _tasks(store, experiences), threshold=threshold))
    if kind == "dpo":
        return list(preference_rows(experiences, threshold=threshold))
    if kind == "steps":
        return list(episode_steps(experiences, threshold=threshold))
    raise InputError(f"`{kind}` is no kind of rows; use sft, dpo or steps", field="--kind")


def _tasks(store: Store, experiences: Sequence[Experience]) -> list[Task]:
    found = (store.task(task_id) for task_id in dict.fromkeys(x.episode.task_id for x in experiences))
    return [task for task in found if task is not None]


def _nothing(kind: str, experiences: Sequence[Experience], threshold: float) -> str:
    if not experiences:
        return "no learner of this run collected episodes, and those of the test split must not be learned from"
    what = "is a success beside a failure on the same prompt" if kind == "dpo" else f"scored {threshold:g} or more"
    return f"of {len(experiences)} practised episodes none {what}; lower --threshold, or practise more"
