"""The records that travel through SEAL; read its five files and you know the system.

    task ─ propose ─▶ self-edit ─ plan ─▶ adaptation plan ─ adapt ─▶ adapter ─ examine ─▶ attempt ─ filter ─▶ buffer

Every record is frozen and keyword-only, knows no tensor and no model, and (adapters aside) survives a round trip through
JSON. Section numbers refer to the paper, arXiv 2506.10943.
"""

from seal_lightning.types.asking import (
    Choice,
    ChoiceScoreRequest,
    Completion,
    GenerationRequest,
    SamplingSpec,
    ScoreRequest,
    TextSchema,
)
from seal_lightning.types.editing import JSON, ChatMessage, FinishReason, Prompt, SelfEdit, Task
from seal_lightning.types.examining import (
    AnsweredQuestion,
    ConditionNames,
    ExamPrompt,
    ExamScores,
    Measurement,
    QuestionScore,
    RewardScore,
    Verdict,
    VerdictStatus,
)
from seal_lightning.types.planning import (
    AdaptationPlan,
    Adapted,
    Adapter,
    AdapterSpec,
    Diverged,
    OptimizerSpec,
    Segment,
    TrainingSequence,
    WholeModel,
)
from seal_lightning.types.trying import Attempt, AttemptStatus, BufferRow, Candidate, PlanSummary, Trial

__all__ = [
    "JSON",
    "AdaptationPlan",
    "Adapted",
    "Adapter",
    "AdapterSpec",
    "AnsweredQuestion",
    "Attempt",
    "AttemptStatus",
    "BufferRow",
    "Candidate",
    "ChatMessage",
    "Choice",
    "ChoiceScoreRequest",
    "Completion",
    "ConditionNames",
    "Diverged",
    "ExamPrompt",
    "ExamScores",
    "FinishReason",
    "GenerationRequest",
    "Measurement",
    "OptimizerSpec",
    "PlanSummary",
    "Prompt",
    "QuestionScore",
    "RewardScore",
    "SamplingSpec",
    "ScoreRequest",
    "Segment",
    "SelfEdit",
    "Task",
    "TextSchema",
    "TrainingSequence",
    "Trial",
    "Verdict",
    "VerdictStatus",
    "WholeModel",
]
