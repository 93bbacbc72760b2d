"""The one place that names classes by string, so that importing tutelage stays fast and optional packages stay optional.

It imports nothing of the package; what it names is loaded at first use. A test loads every name.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

MODELS = {
    "scripted": "tutelage.models.scripted:Scripted",
    "endpoint": "tutelage.models.endpoint:Endpoint",
    "gguf": "tutelage.models.gguf:GGUF",
}

EMBEDDERS = {
    "wordllama": "tutelage.retrieval.embedders:WordLlamaEmbedder",
    "endpoint": "tutelage.retrieval.embedders:EndpointEmbedder",
    "sentence-transformers": "tutelage.retrieval.embedders:SentenceTransformersEmbedder",
    "hashing": "tutelage.retrieval.embedders:HashingEmbedder",
}

GRADERS = {
    "exact": "tutelage.graders.rules:Exact",
    "normalised": "tutelage.graders.rules:Normalised",
    "numeric": "tutelage.graders.rules:Numeric",
    "code": "tutelage.graders.code:HiddenTests",
    "contains": "tutelage.graders.rules:Contains",
    "token_f1": "tutelage.graders.rules:TokenF1",
    "regex": "tutelage.graders.rules:Regex",
    "json_fields": "tutelage.graders.rules:JsonFields",
    "toolcall": "tutelage.graders.toolcall:ToolCallMatch",
    "environment": "tutelage.graders.rules:FromEnvironment",
    "productqa": "tutelage.environments.productqa:ProductQAGrader",
    "shop": "tutelage.environments.shop:ShopGrader",
}

LEARNERS = {
    "curate": "tutelage.learners.curate:Curate",
    "curriculum": "tutelage.learners.curriculum:Curriculum",
    "exemplars": "tutelage.learners.exemplars:Exemplars",
    "expel": "tutelage.learners.expel:ExpeL",
    "reflexion": "tutelage.learners.reflexion:Reflexion",
    "stream": "tutelage.learners.stream:Stream",
    "transfer": "tutelage.learners.expel_transfer:Transfer",
}

TOOLS: dict[str, str] = {
    "editor": "tutelage.tools.editor:editor_tools",
    "files": "tutelage.tools.files:files_tools",
    "python": "tutelage.tools.python:python_tool",
    "sql": "tutelage.tools.sql:sql_tool",
}

ENVIRONMENTS: dict[str, str] = {
    "code": "tutelage.environments.code:CodeEnvironment",
    "productqa": "tutelage.environments.productqa:ProductQAEnvironment",
    "reasoning": "tutelage.environments.reasoning:ReasoningEnvironment",
    "service": "tutelage.environments.service:ServiceEnvironment",
    "shop": "tutelage.environments.shop:ShopEnvironment",
    "textgame": "tutelage.environments.textgame:TextGameEnvironment",
}

TASK_SOURCES: dict[str, str] = {
    "code": "tutelage.environments.code:code_tasks",
    "productqa": "tutelage.environments.productqa:productqa_tasks",
    "reasoning": "tutelage.environments.reasoning:reasoning_tasks",
    "service": "tutelage.environments.service:service_tasks",
    "shop": "tutelage.environments.shop:shop_tasks",
    "textgame": "tutelage.environments.textgame:textgame_tasks",
}

PUBLIC = {
    "Agent": "tutelage.agent:Agent",
    "Budget": "tutelage.practice:Budget",
    "Collector": "tutelage.practice:Collector",
    "Completion": "tutelage.records:Completion",
    "Contains": "tutelage.graders.rules:Contains",
    "Endpoint": "tutelage.models.endpoint:Endpoint",
    "Environment": "tutelage.environment:Environment",
    "Episode": "tutelage.records:Episode",
    "Exact": "tutelage.graders.rules:Exact",
    "Exemplar": "tutelage.knowledge:Exemplar",
    "Exemplars": "tutelage.learners.exemplars:Exemplars",
    "Experience": "tutelage.records:Experience",
    "FunctionGrader": "tutelage.grader:FunctionGrader",
    "GGUF": "tutelage.models.gguf:GGUF",
    "Grade": "tutelage.records:Grade",
    "Grader": "tutelage.grader:Grader",
    "InputError": "tutelage.errors:InputError",
    "JsonFields": "tutelage.graders.rules:JsonFields",
    "Knowledge": "tutelage.knowledge:Knowledge",
    "Learner": "tutelage.learner:Learner",
    "Limits": "tutelage.agent:Limits",
    "Memory": "tutelage.memory:Memory",
    "Message": "tutelage.records:Message",
    "Model": "tutelage.model:Model",
    "ModelFailed": "tutelage.errors:ModelFailed",
    "ModelUnavailable": "tutelage.errors:ModelUnavailable",
    "Need": "tutelage.learner:Need",
    "Normalised": "tutelage.graders.rules:Normalised",
    "Numeric": "tutelage.graders.rules:Numeric",
    "Practice": "tutelage.practice:Practice",
    "Price": "tutelage.prices:Price",
    "Regex": "tutelage.graders.rules:Regex",
    "Retrieval": "tutelage.knowledge:Retrieval",
    "Sampling": "tutelage.records:Sampling",
    "Scripted": "tutelage.models.scripted:Scripted",
    "StopReason": "tutelage.records:StopReason",
    "Store": "tutelage.experience.store:Store",
    "Study": "tutelage.study.run:Study",
    "Task": "tutelage.records:Task",
    "TokenF1": "tutelage.graders.rules:TokenF1",
    "Tool": "tutelage.tool:Tool",
    "ToolCall": "tutelage.records:ToolCall",
    "ToolCallMatch": "tutelage.graders.toolcall:ToolCallMatch",
    "ToolError": "tutelage.errors:ToolError",
    "Weighted": "tutelage.graders.combine:Weighted",
    "grade_episode": "tutelage.graders.load:grade_episode",
    "load_study": "tutelage.study.config:load_study",
    "read_tasks": "tutelage.tasks:read_tasks",
    "run_episode": "tutelage.episode:run_episode",
    "success_exemplar": "tutelage.learners.exemplars:success_exemplar",
    "tool": "tutelage.tool:tool",
}
"""What `import tutelage as tt` offers."""


def load(path: str) -> Any:
    """The object at `module:name`."""
    module, _, name = path.partition(":")
    return getattr(import_module(module), name)
