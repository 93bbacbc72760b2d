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
    "gym": "tutelage.environments.gym:GymTextEnvironment",
    "productqa": "tutelage.environments.productqa:ProductQAEnvironment",
    "reasoning": "tutelage.environments.reasoning:ReasoningEnvironment",
    "service": "tutelage.environments.service:ServiceEnvironment",
    "shop": "tutelage.environments.shop:ShopEnvironment",
    "textgame": "tutelage.environments.textgame:TextGameEnvironment",
}

TASK_SOURCES: dict[str, str] = {
    "code": "tutelage.environments.code:code_tasks",
    "gym": "tutelage.environments.gym:gym_tasks",
    "productqa": "tutelage.environments.productqa:productqa_tasks",
    "reasoning": "tutelage.environments.reasoning:reasoning_tasks",
    "service": "tutelage.environments.service:service_tasks",
    "shop": "tutelage.environments.shop:shop_tasks",
    "textgame": "tutelage.environments.textgame:textgame_tasks",
}

PUBLIC = {
    "Agent": "tutelage.agent:Agent",
    "Budget": "tutelage.practice:Budget",
    "CodeEnvironment": "tutelage.environments.code:CodeEnvironment",
    "Collector": "tutelage.practice:Collector",
    "Completion": "tutelage.records:Completion",
    "Contains": "tutelage.graders.rules:Contains",
    "Curate": "tutelage.learners.curate:Curate",
    "Curriculum": "tutelage.learners.curriculum:Curriculum",
    "Endpoint": "tutelage.models.endpoint:Endpoint",
    "Environment": "tutelage.environment:Environment",
    "Episode": "tutelage.records:Episode",
    "Exact": "tutelage.graders.rules:Exact",
    "Exemplar": "tutelage.knowledge:Exemplar",
    "Exemplars": "tutelage.learners.exemplars:Exemplars",
    "ExpeL": "tutelage.learners.expel:ExpeL",
    "Experience": "tutelage.records:Experience",
    "FunctionGrader": "tutelage.grader:FunctionGrader",
    "GGUF": "tutelage.models.gguf:GGUF",
    "Grade": "tutelage.records:Grade",
    "Grader": "tutelage.grader:Grader",
    "GymTextEnvironment": "tutelage.environments.gym:GymTextEnvironment",
    "HiddenTests": "tutelage.graders.code:HiddenTests",
    "InputError": "tutelage.errors:InputError",
    "Insight": "tutelage.knowledge:Insight",
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
    "ProductQAEnvironment": "tutelage.environments.productqa:ProductQAEnvironment",
    "ReasoningEnvironment": "tutelage.environments.reasoning:ReasoningEnvironment",
    "Recall": "tutelage.knowledge:Recall",
    "Reflection": "tutelage.knowledge:Reflection",
    "Reflexion": "tutelage.learners.reflexion:Reflexion",
    "Regex": "tutelage.graders.rules:Regex",
    "Retrieval": "tutelage.knowledge:Retrieval",
    "Sampling": "tutelage.records:Sampling",
    "SandboxLimits": "tutelage.sandbox:SandboxLimits",
    "Scripted": "tutelage.models.scripted:Scripted",
    "ServiceEnvironment": "tutelage.environments.service:ServiceEnvironment",
    "ShopEnvironment": "tutelage.environments.shop:ShopEnvironment",
    "ShopGrader": "tutelage.environments.shop:ShopGrader",
    "StopReason": "tutelage.records:StopReason",
    "Store": "tutelage.experience.store:Store",
    "Stream": "tutelage.learners.stream:Stream",
    "Study": "tutelage.study.run:Study",
    "Task": "tutelage.records:Task",
    "TextGameEnvironment": "tutelage.environments.textgame:TextGameEnvironment",
    "TokenF1": "tutelage.graders.rules:TokenF1",
    "Tool": "tutelage.tool:Tool",
    "ToolCall": "tutelage.records:ToolCall",
    "ToolCallMatch": "tutelage.graders.toolcall:ToolCallMatch",
    "ToolError": "tutelage.errors:ToolError",
    "Transfer": "tutelage.learners.expel_transfer:Transfer",
    "Weighted": "tutelage.graders.combine:Weighted",
    "chain": "tutelage.workflows:chain",
    "check_environment": "tutelage.environments.check:check_environment",
    "code_tasks": "tutelage.environments.code:code_tasks",
    "editor_tools": "tutelage.tools.editor:editor_tools",
    "files_tools": "tutelage.tools.files:files_tools",
    "grade_episode": "tutelage.graders.load:grade_episode",
    "load_study": "tutelage.study.config:load_study",
    "measure_worth": "tutelage.worth:measure_worth",
    "orchestrate": "tutelage.workflows:orchestrate",
    "productqa_tasks": "tutelage.environments.productqa:productqa_tasks",
    "python_tool": "tutelage.tools.python:python_tool",
    "read_tasks": "tutelage.tasks:read_tasks",
    "reasoning_tasks": "tutelage.environments.reasoning:reasoning_tasks",
    "refine": "tutelage.workflows:refine",
    "route": "tutelage.workflows:route",
    "run_episode": "tutelage.episode:run_episode",
    "run_python": "tutelage.sandbox:run_python",
    "run_tests": "tutelage.sandbox:run_tests",
    "sections": "tutelage.workflows:sections",
    "service_tasks": "tutelage.environments.service:service_tasks",
    "shop_tasks": "tutelage.environments.shop:shop_tasks",
    "sql_tool": "tutelage.tools.sql:sql_tool",
    "success_exemplar": "tutelage.learners.exemplars:success_exemplar",
    "textgame_tasks": "tutelage.environments.textgame:textgame_tasks",
    "tool": "tutelage.tool:tool",
    "vote": "tutelage.workflows:vote",
}
"""What `import tutelage as tt` offers."""


def load(path: str) -> Any:
    """The object at `module:name`."""
    module, _, name = path.partition(":")
    return getattr(import_module(module), name)
