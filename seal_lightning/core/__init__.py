"""The records that travel through SEAL; read its files and you know the system.

    task ─ propose ─▶ self-edit ─ plan ─▶ adaptation plan ─ adapt ─▶ adapter ─ examine ─▶ attempt ─ filter ─▶ buffer

Every record is frozen and keyword-only, knows no tensor and no model, and (adapters aside) survives a round trip through
JSON. Section numbers refer to the paper, arXiv 2506.10943.
"""

from seal_lightning.core.attempts import Attempt, AttemptStatus, BufferRow, Candidate, PlanSummary, Trial
from seal_lightning.core.edits import JSON, ChatMessage, FinishReason, Prompt, SelfEdit, Task
from seal_lightning.core.exam_records import (
    AnsweredQuestion,
    AuxiliaryExam,
    ConditionNames,
    ExamPaper,
    ExamPrompt,
    ExamScores,
    Measurement,
    QuestionScore,
    Rating,
    RewardScore,
    Verdict,
    VerdictStatus,
)
from seal_lightning.core.judgements import JudgeCounts, Judgement, JudgeQuestion
from seal_lightning.core.plans import (
    AdaptationPlan,
    Adapted,
    Adapter,
    AdapterSpec,
    AnchorSpec,
    Diverged,
    OptimizerSpec,
    Segment,
    TrainingSequence,
    WholeModel,
)
from seal_lightning.core.rank_phases import RankPhase
from seal_lightning.core.requests import (
    Choice,
    ChoiceScoreRequest,
    Completion,
    FreeText,
    GenerationRequest,
    SamplingSpec,
    ScoreRequest,
    TextSchema,
    filled_in,
    joined_literals,
)

__all__ = [
    "JSON",
    "AdaptationPlan",
    "Adapted",
    "Adapter",
    "AdapterSpec",
    "AnchorSpec",
    "AnsweredQuestion",
    "Attempt",
    "AttemptStatus",
    "AuxiliaryExam",
    "BufferRow",
    "Candidate",
    "ChatMessage",
    "Choice",
    "ChoiceScoreRequest",
    "Completion",
    "ConditionNames",
    "Diverged",
    "ExamPaper",
    "ExamPrompt",
    "ExamScores",
    "FinishReason",
    "FreeText",
    "GenerationRequest",
    "JudgeCounts",
    "JudgeQuestion",
    "Judgement",
    "Measurement",
    "OptimizerSpec",
    "PlanSummary",
    "Prompt",
    "QuestionScore",
    "RankPhase",
    "Rating",
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
    "filled_in",
    "joined_literals",
]
