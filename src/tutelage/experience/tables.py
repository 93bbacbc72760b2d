"""The tables of the store as queries see them. How they came to be stands in `migrations.py`; a test keeps the two together."""

from __future__ import annotations

from sqlalchemy import BigInteger, Boolean, Column, Float, MetaData, Table, Text

BEGIN_WRITING = {"sqlite": "BEGIN IMMEDIATE", "postgresql": "BEGIN"}
"""How a writing transaction begins, by SQLAlchemy's name of the database. SQLite takes its write lock at once, so two writers queue and
never deadlock halfway."""

metadata = MetaData()

episodes = Table(
    "episodes",
    metadata,
    Column("id", BigInteger, primary_key=True),  # ascends in the order of insertion
    Column("study", Text, nullable=False),
    Column("arm", Text, nullable=False),
    Column("agent_version", Text, nullable=False),
    Column("task_id", Text, nullable=False),
    Column("seed", BigInteger, nullable=False),
    Column("attempt", BigInteger, nullable=False),
    Column("stop", Text, nullable=False),
    Column("calls", BigInteger, nullable=False),
    Column("tokens_in", BigInteger, nullable=False),
    Column("tokens_out", BigInteger, nullable=False),
    Column("tokens_reused", BigInteger, nullable=False),
    Column("cost_usd", Float),  # null: the price is unknown
    Column("seconds", Float, nullable=False),
    Column("shown", Text, nullable=False),  # JSON list of exemplars' ids
    Column("body", Text, nullable=False),  # JSON of the Episode, fields at their default left out
    Column("created_at", Text, nullable=False),  # ISO 8601, as all times here
)

grades = Table(
    "grades",
    metadata,
    Column("id", BigInteger, primary_key=True),
    Column("episode_id", BigInteger, nullable=False),
    Column("grader", Text, nullable=False),
    Column("score", Float),  # null: not graded, which is not 0
    Column("words", Text, nullable=False),
    Column("confidence", Float),
    Column("abstained", Boolean, nullable=False),
    Column("parts", Text, nullable=False),  # JSON
    Column("created_at", Text, nullable=False),
)

agents = Table(
    "agents",
    metadata,
    Column("version", Text, primary_key=True),
    Column("described", Text, nullable=False),  # JSON
    Column("created_at", Text, nullable=False),
)

tasks = Table(
    "tasks",
    metadata,
    Column("id", Text, primary_key=True),
    Column("body", Text, nullable=False),  # JSON of the Task
    Column("created_at", Text, nullable=False),
)

completions = Table(
    "completions",
    metadata,
    Column("id", BigInteger, primary_key=True),
    Column("key", Text, nullable=False),  # of the exact request; two processes may both have asked
    Column("study", Text, nullable=False),
    Column("calls", BigInteger, nullable=False),
    Column("tokens_in", BigInteger, nullable=False),
    Column("tokens_out", BigInteger, nullable=False),
    Column("tokens_reused", BigInteger, nullable=False),
    Column("cost_usd", Float),
    Column("body", Text, nullable=False),  # JSON of the Completion
    Column("created_at", Text, nullable=False),
)

looks = Table(
    "looks",
    metadata,
    Column("split_id", Text, primary_key=True),
    Column("fingerprint", Text, primary_key=True),
    Column("created_at", Text, nullable=False),
)

inbox_questions = Table(
    "inbox_questions",
    metadata,
    Column("number", BigInteger, primary_key=True),  # ascends in the order of asking
    Column("id", Text, nullable=False),  # of the content; unique
    Column("kind", Text, nullable=False),
    Column("task_id", Text, nullable=False),
    Column("addressee", Text, nullable=False),  # the expert who is asked by name; empty: whoever is there
    Column("body", Text, nullable=False),  # JSON of the Question
    Column("created_at", Text, nullable=False),
    # From here on it changes: the terms when it is asked again, the rest with what becomes of it.
    Column("price", Float, nullable=False),
    Column("price_usd", Float, nullable=False),
    Column("seconds", Float),
    Column("fallback", Text, nullable=False),
    Column("deadline_at", Text),
    Column("state", Text, nullable=False),
    Column("lease", Text, nullable=False),  # of the session that has it in hand; empty: nobody has
    Column("leased_by", Text, nullable=False),
    Column("leased_until", Text),
    Column("closed_by", Text, nullable=False),
    Column("closed_why", Text, nullable=False),
)

inbox_answers = Table(
    "inbox_answers",
    metadata,
    Column("id", BigInteger, primary_key=True),
    Column("question_id", Text, nullable=False),  # unique: nothing is answered twice
    Column("answer", Text, nullable=False),
    Column("note", Text, nullable=False),
    Column("who", Text, nullable=False),
    Column("late", Boolean, nullable=False),  # the agent had done without by then
    Column("created_at", Text, nullable=False),
)

inbox_charges = Table(
    "inbox_charges",
    metadata,
    Column("question_id", Text, primary_key=True),  # nothing is charged twice
    Column("price", Float, nullable=False),  # in units of reward
    Column("price_usd", Float, nullable=False),
    Column("created_at", Text, nullable=False),
)

schema_version = Table(
    "schema_version",
    metadata,
    Column("version", BigInteger, primary_key=True),
    Column("applied_at", Text, nullable=False),
)
