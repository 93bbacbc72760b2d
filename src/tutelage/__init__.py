"""tutelage: an LLM agent gets better at its job, by every known way of learning, and proves it.

    Task -> run_episode(agent, task) -> Episode -> Grader -> Grade -> Experience -> Learner -> a better Agent -> Study report

Names are loaded at first use, so importing the package is quick and needs none of the optional packages.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tutelage.registry import PUBLIC, load
from tutelage.tool import tool as tool  # loaded at once: importing the module later would put the module in place of this name

__version__ = "0.1.0"

if TYPE_CHECKING:
    from tutelage.adapter import Adapter as Adapter
    from tutelage.adapter import find_adapters as find_adapters
    from tutelage.adapter import read_adapter as read_adapter
    from tutelage.advice import Advice as Advice
    from tutelage.advice import Advisor as Advisor
    from tutelage.advice import ModelAdvisor as ModelAdvisor
    from tutelage.advice import Question as Question
    from tutelage.advice import ReferenceAdvisor as ReferenceAdvisor
    from tutelage.agent import Agent as Agent
    from tutelage.agent import Limits as Limits
    from tutelage.budget import Budget as Budget
    from tutelage.collector import Collector as Collector
    from tutelage.environment import Environment as Environment
    from tutelage.environments.check import check_environment as check_environment
    from tutelage.environments.code import CodeEnvironment as CodeEnvironment
    from tutelage.environments.code import code_tasks as code_tasks
    from tutelage.environments.gym import GymTextEnvironment as GymTextEnvironment
    from tutelage.environments.multi_step import multi_step_tasks as multi_step_tasks
    from tutelage.environments.path_star import PathStarGrader as PathStarGrader
    from tutelage.environments.path_star import path_star_tasks as path_star_tasks
    from tutelage.environments.productqa import ProductQAEnvironment as ProductQAEnvironment
    from tutelage.environments.productqa import productqa_tasks as productqa_tasks
    from tutelage.environments.reasoning import ReasoningEnvironment as ReasoningEnvironment
    from tutelage.environments.reasoning import reasoning_tasks as reasoning_tasks
    from tutelage.environments.service import ServiceEnvironment as ServiceEnvironment
    from tutelage.environments.service import service_tasks as service_tasks
    from tutelage.environments.shapes import shapes_tasks as shapes_tasks
    from tutelage.environments.shop import ShopEnvironment as ShopEnvironment
    from tutelage.environments.shop import ShopGrader as ShopGrader
    from tutelage.environments.shop import shop_tasks as shop_tasks
    from tutelage.environments.textgame import TextGameEnvironment as TextGameEnvironment
    from tutelage.environments.textgame import textgame_tasks as textgame_tasks
    from tutelage.episode import run_episode as run_episode
    from tutelage.errors import InputError as InputError
    from tutelage.errors import ModelFailed as ModelFailed
    from tutelage.errors import ModelUnavailable as ModelUnavailable
    from tutelage.errors import ToolError as ToolError
    from tutelage.executor.action import action as action
    from tutelage.executor.ask_when import AskWhen as AskWhen
    from tutelage.executor.executor import AgileExecutor as AgileExecutor
    from tutelage.executor.outcome import confidence_of as confidence_of
    from tutelage.executor.outcome import reward_of as reward_of
    from tutelage.executor.outcome import writes_of as writes_of
    from tutelage.executor.session import Session as Session
    from tutelage.experience.store import Store as Store
    from tutelage.grader import FunctionGrader as FunctionGrader
    from tutelage.grader import Grader as Grader
    from tutelage.graders.calibrated_judge import CalibratedJudge as CalibratedJudge
    from tutelage.graders.calibrated_judge import calibrate as calibrate
    from tutelage.graders.calibrated_judge import load_calibrated as load_calibrated
    from tutelage.graders.cascade import Cascade as Cascade
    from tutelage.graders.cascade import calibrate_cascade as calibrate_cascade
    from tutelage.graders.cascade import load_cascade as load_cascade
    from tutelage.graders.choice import Choice as Choice
    from tutelage.graders.code import HiddenTests as HiddenTests
    from tutelage.graders.combine import Weighted as Weighted
    from tutelage.graders.guarantee import calibrate_threshold as calibrate_threshold
    from tutelage.graders.judge import Judge as Judge
    from tutelage.graders.judge_pairwise import PairwiseJudge as PairwiseJudge
    from tutelage.graders.load import grade_episode as grade_episode
    from tutelage.graders.rules import Contains as Contains
    from tutelage.graders.rules import Exact as Exact
    from tutelage.graders.rules import JsonFields as JsonFields
    from tutelage.graders.rules import Normalised as Normalised
    from tutelage.graders.rules import Numeric as Numeric
    from tutelage.graders.rules import Regex as Regex
    from tutelage.graders.rules import TokenF1 as TokenF1
    from tutelage.graders.toolcall import ToolCallMatch as ToolCallMatch
    from tutelage.inbox import Inbox as Inbox
    from tutelage.inbox import Person as Person
    from tutelage.inbox import PersonGrader as PersonGrader
    from tutelage.inbox import Terms as Terms
    from tutelage.knowledge import Exemplar as Exemplar
    from tutelage.knowledge import Insight as Insight
    from tutelage.knowledge import Knowledge as Knowledge
    from tutelage.knowledge import Recall as Recall
    from tutelage.knowledge import Reflection as Reflection
    from tutelage.knowledge import Retrieval as Retrieval
    from tutelage.learner import Learner as Learner
    from tutelage.learner import Need as Need
    from tutelage.learners.agile import Agile as Agile
    from tutelage.learners.agile_imitation import AgileImitation as AgileImitation
    from tutelage.learners.agile_oracle import MultipleChoiceOracle as MultipleChoiceOracle
    from tutelage.learners.agile_oracle import Oracle as Oracle
    from tutelage.learners.agile_oracle import ShopOracle as ShopOracle
    from tutelage.learners.agile_oracle_productqa import ProductQAOracle as ProductQAOracle
    from tutelage.learners.ask_threshold import AskThreshold as AskThreshold
    from tutelage.learners.curate import Curate as Curate
    from tutelage.learners.curriculum import Curriculum as Curriculum
    from tutelage.learners.dpo import DPO as DPO
    from tutelage.learners.exemplars import Exemplars as Exemplars
    from tutelage.learners.exemplars import success_exemplar as success_exemplar
    from tutelage.learners.expel import ExpeL as ExpeL
    from tutelage.learners.expel_transfer import Transfer as Transfer
    from tutelage.learners.reflexion import Reflexion as Reflexion
    from tutelage.learners.rewards import GradedToolCall as GradedToolCall
    from tutelage.learners.rlvr import RLVR as RLVR
    from tutelage.learners.sft import SFT as SFT
    from tutelage.learners.srl import SRL as SRL
    from tutelage.learners.stream import Stream as Stream
    from tutelage.learners.vision import VisionSFT as VisionSFT
    from tutelage.memory import Memory as Memory
    from tutelage.model import Model as Model
    from tutelage.models.endpoint import Endpoint as Endpoint
    from tutelage.models.gguf import GGUF as GGUF
    from tutelage.models.huggingface import HuggingFace as HuggingFace
    from tutelage.models.scripted import Scripted as Scripted
    from tutelage.practice import Practice as Practice
    from tutelage.prices import Price as Price
    from tutelage.records import Completion as Completion
    from tutelage.records import Episode as Episode
    from tutelage.records import Experience as Experience
    from tutelage.records import Grade as Grade
    from tutelage.records import Message as Message
    from tutelage.records import Sampling as Sampling
    from tutelage.records import StopReason as StopReason
    from tutelage.records import Task as Task
    from tutelage.records import ToolCall as ToolCall
    from tutelage.sandbox import SandboxLimits as SandboxLimits
    from tutelage.sandbox import run_python as run_python
    from tutelage.sandbox import run_tests as run_tests
    from tutelage.study.config import load_study as load_study
    from tutelage.study.run import Study as Study
    from tutelage.tasks import read_tasks as read_tasks
    from tutelage.tool import Tool as Tool
    from tutelage.tool import tool as tool
    from tutelage.tools.editor import editor_tools as editor_tools
    from tutelage.tools.files import files_tools as files_tools
    from tutelage.tools.python import python_tool as python_tool
    from tutelage.tools.sql import sql_tool as sql_tool
    from tutelage.training.adapter_arithmetic import Combination as Combination
    from tutelage.training.adapter_arithmetic import combine_adapters as combine_adapters
    from tutelage.training.adapter_compare import AdapterComparison as AdapterComparison
    from tutelage.training.adapter_compare import compare_adapters as compare_adapters
    from tutelage.training.adapter_files import convert_adapter as convert_adapter
    from tutelage.training.adapter_files import fold_adapter as fold_adapter
    from tutelage.workflows import chain as chain
    from tutelage.workflows import orchestrate as orchestrate
    from tutelage.workflows import refine as refine
    from tutelage.workflows import route as route
    from tutelage.workflows import sections as sections
    from tutelage.workflows import vote as vote
    from tutelage.worth import measure_worth as measure_worth

__all__ = [  # the same names as registry.PUBLIC (tested)
    "DPO",
    "GGUF",
    "RLVR",
    "SFT",
    "SRL",
    "Adapter",
    "AdapterComparison",
    "Advice",
    "Advisor",
    "Agent",
    "Agile",
    "AgileExecutor",
    "AgileImitation",
    "AskThreshold",
    "AskWhen",
    "Budget",
    "CalibratedJudge",
    "Cascade",
    "Choice",
    "CodeEnvironment",
    "Collector",
    "Combination",
    "Completion",
    "Contains",
    "Curate",
    "Curriculum",
    "Endpoint",
    "Environment",
    "Episode",
    "Exact",
    "Exemplar",
    "Exemplars",
    "ExpeL",
    "Experience",
    "FunctionGrader",
    "Grade",
    "GradedToolCall",
    "Grader",
    "GymTextEnvironment",
    "HiddenTests",
    "HuggingFace",
    "Inbox",
    "InputError",
    "Insight",
    "JsonFields",
    "Judge",
    "Knowledge",
    "Learner",
    "Limits",
    "Memory",
    "Message",
    "Model",
    "ModelAdvisor",
    "ModelFailed",
    "ModelUnavailable",
    "MultipleChoiceOracle",
    "Need",
    "Normalised",
    "Numeric",
    "Oracle",
    "PairwiseJudge",
    "PathStarGrader",
    "Person",
    "PersonGrader",
    "Practice",
    "Price",
    "ProductQAEnvironment",
    "ProductQAOracle",
    "Question",
    "ReasoningEnvironment",
    "Recall",
    "ReferenceAdvisor",
    "Reflection",
    "Reflexion",
    "Regex",
    "Retrieval",
    "Sampling",
    "SandboxLimits",
    "Scripted",
    "ServiceEnvironment",
    "Session",
    "ShopEnvironment",
    "ShopGrader",
    "ShopOracle",
    "StopReason",
    "Store",
    "Stream",
    "Study",
    "Task",
    "Terms",
    "TextGameEnvironment",
    "TokenF1",
    "Tool",
    "ToolCall",
    "ToolCallMatch",
    "ToolError",
    "Transfer",
    "VisionSFT",
    "Weighted",
    "__version__",
    "action",
    "calibrate",
    "calibrate_cascade",
    "calibrate_threshold",
    "chain",
    "check_environment",
    "code_tasks",
    "combine_adapters",
    "compare_adapters",
    "confidence_of",
    "convert_adapter",
    "editor_tools",
    "files_tools",
    "find_adapters",
    "fold_adapter",
    "grade_episode",
    "load_calibrated",
    "load_cascade",
    "load_study",
    "measure_worth",
    "multi_step_tasks",
    "orchestrate",
    "path_star_tasks",
    "productqa_tasks",
    "python_tool",
    "read_adapter",
    "read_tasks",
    "reasoning_tasks",
    "refine",
    "reward_of",
    "route",
    "run_episode",
    "run_python",
    "run_tests",
    "sections",
    "service_tasks",
    "shapes_tasks",
    "shop_tasks",
    "sql_tool",
    "success_exemplar",
    "textgame_tasks",
    "tool",
    "vote",
    "writes_of",
]


def __getattr__(name: str) -> Any:
    if name in PUBLIC:
        value = globals()[name] = load(PUBLIC[name])  # the next look is an ordinary one
        return value
    raise AttributeError(f"module 'tutelage' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted(__all__)
