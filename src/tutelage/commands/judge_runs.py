"""What a calibrated judge or a cascade did in a run: its grades in the run's store."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import select

from tutelage.errors import InputError
from tutelage.experience.database import Database
from tutelage.experience.store import Store
from tutelage.experience.tables import episodes, grades
from tutelage.graders.cascade import summarise
from tutelage.records import Experience

LABELLED = (".csv", ".tsv", ".jsonl")
"""How the name of a file of items ends; anything else is a run."""


def store_of(run: str) -> str:
    """The store of a run's folder, or the file or URL of one. Raises `InputError` where there is none."""
    if "://" in run:
        return run
    path = Path(run) / "experience.sqlite" if Path(run).is_dir() else Path(run)
    if not path.is_file():
        raise InputError(f"there is no run (no {path}); give a run's folder, or items in {', '.join(LABELLED)}", field="SOURCE")
    return str(path)


def graded_by(store: Store, place: str, promise: str) -> list[Experience]:
    """The experiences of a store that the judge of this promise graded."""
    query = select(episodes.c.study, episodes.c.agent_version, grades.c.grader).distinct()
    database = Database(place)
    try:
        rows = database.rows(query.join_from(episodes, grades, grades.c.episode_id == episodes.c.id))
    finally:
        database.close()
    names = (f"calibrated:{promise}", f"cascade:{promise}")
    own = sorted(tuple(row) for row in rows if row.grader in names or row.grader.startswith(f"{names[1]}+"))
    return [one for study, version, name in own for one in store.load(study, version, name).values()]


def run_rows(run: str, promise: str, levels: int) -> list[tuple[str, str]]:
    """How much it decided in a run; of a cascade which level did, and what each cost. Raises `InputError` where there is no run."""
    place = store_of(run)
    with Store(place) as store:
        found = [one.grade for one in graded_by(store, place, promise)]
    if not found:
        return [("in this run", f"it graded nothing in {run}; is it the run's grader, and calibrated before the run?")]
    if levels > 1:
        lines = summarise(found, levels).lines()
    else:
        decided, abstained = sum(one.score is not None for one in found), sum(one.abstained for one in found)
        lines = [f"decided {decided} of {len(found)} episodes ({decided / len(found):.1%}), abstained from {abstained}"]
    return [("in this run" if not place else "", line) for place, line in enumerate(lines)]
