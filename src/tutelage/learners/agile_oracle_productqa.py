"""The oracle of ProductQA: what its files say of each question beside the answer.

A search comes with its SQL, a reasoning question with the knowledge that it needs, which recurs over many questions. Facts stand in reviews
that are not part of the data: whether an agent could answer one from the product's description alone, the files do not say.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

from tutelage.environments.productqa import KINDS
from tutelage.errors import InputError
from tutelage.learners.agile_oracle import Call, Plan, Sure, check_share, is_sure
from tutelage.records import Task
from tutelage.task_formats.lines import Row, json_rows


class ProductQAOracle:
    """Knows the questions of `productqa_tasks`.

    A search: the file's own SQL, whose rows are the right answer. A reasoning question: the knowledge that the file names for it; known,
    it is answered from what is shown of the product, else advice is sought and the knowledge remembered. A fact: answered at once where
    `sure` says so (a share, or a function of the task: which facts an agent could know, the files do not say), else advice is sought,
    and the expert's words are remembered. An expert's words are the short answer and the long one.

    folder: that of the data (None: the files that the tasks' sources name). Of a file only the rows of the tasks that are asked for are
    used.
    """

    name = "productqa"

    def __init__(self, folder: str | Path | None = None, *, sure: Sure = 0.0, seed: int = 0) -> None:
        check_share(sure, "sure")
        self.folder, self.sure, self.seed = None if folder is None else Path(folder), sure, seed

    def described(self) -> dict[str, Any]:
        """Where the files lie does not matter; a function says nothing but its name."""
        sure = getattr(self.sure, "__qualname__", "function") if callable(self.sure) else self.sure
        return {"name": self.name, "sure": sure, "seed": self.seed}

    def plan(self, task: Task) -> Plan:
        """The plan for a task of `productqa_tasks`; raises `InputError` for any other, and where a search's file cannot be found."""
        kind, reference = task.environment.get("kind"), task.reference
        if kind not in KINDS or not (isinstance(reference, list) and len(reference) == 2):
            raise InputError("is no task of productqa_tasks, so its oracle knows nothing of it", file=task.source or task.id)
        short, long = str(reference[0]), str(reference[1])
        if kind == "search":
            return Plan(answer=short, calls=(self._query(task),), sure=True, advice=f"{short}. {long}")
        advice = f"{short[:1].upper()}{short[1:].rstrip('.')}. {long}"
        knowledge = task.environment.get("knowledge")
        if kind == "reasoning" and isinstance(knowledge, str):
            return Plan(answer=short, needs=(knowledge,), advice=advice, lesson=knowledge)
        return Plan(answer=short, sure=is_sure(self.sure, task, self.seed), advice=advice, lesson=long)

    def _query(self, task: Task) -> Call:
        row = _rows(self._file(task)).get((str(task.environment.get("product")), _question(task)))
        extra = row.get("extra_data") if row else None
        if not isinstance(extra, dict) or not isinstance(extra.get("answer"), str):
            raise InputError("its file has no SQL for it", file=task.source or task.id)
        query = extra["answer"].strip().rstrip(";").strip().replace("product_id", "asin")  # the tables call it asin
        return Call(name="sql", arguments={"query": query})

    def _file(self, task: Task) -> Path:
        if self.folder is not None:
            return self.folder / str(task.environment.get("split")) / str(task.environment.get("group")) / "qa.jsonl"
        if task.source and (named := task.source.rpartition(":")[0]):
            return Path(named)
        raise InputError("name the folder of ProductQA's files: the task does not say where it was read", file=task.id, field="folder")


def _question(task: Task) -> str:
    """The question as its file has it; of a search nothing is added to it."""
    return task.messages[-1].text


@lru_cache(maxsize=16)
def _rows(file: Path) -> dict[tuple[str, str], Row]:
    """The searches of a file by asin and question."""
    rows = (row for _, row in json_rows(file))
    return {(str(row.get("asin")), str(row.get("question"))): row for row in rows if row.get("type") == "search_qa"}
