"""Lightning callbacks: reward filters, the ReST-EM buffer, and what keeps and shows a run."""

from seal_lightning.callbacks.arc_pictures import ArcPictures
from seal_lightning.callbacks.arc_submission import ArcSubmission
from seal_lightning.callbacks.attempt_journal import AttemptJournal
from seal_lightning.callbacks.choice_probabilities import ChoiceProbabilities
from seal_lightning.callbacks.choice_shares import ChoiceShares
from seal_lightning.callbacks.graceful_stop import GracefulStop
from seal_lightning.callbacks.judge_costs import JudgeCosts
from seal_lightning.callbacks.phase_checkpoint import PhaseCheckpoint
from seal_lightning.callbacks.policy_export import PolicyExport
from seal_lightning.callbacks.prediction_writer import SelfEditFile
from seal_lightning.callbacks.progress import SealProgressBar
from seal_lightning.callbacks.rank_checks import RankAgreement, SharedRunDir, StartingPoint
from seal_lightning.callbacks.rank_report import RankReport
from seal_lightning.callbacks.rest_em_buffer import RestEmBuffer
from seal_lightning.callbacks.results_table import ResultsTable
from seal_lightning.callbacks.reward_filter import (
    AboveThreshold,
    BestOfK,
    FunctionFilter,
    Improves,
    RewardFilter,
    TopFraction,
)
from seal_lightning.callbacks.round_report import RoundReport

__all__ = [
    "AboveThreshold",
    "ArcPictures",
    "ArcSubmission",
    "AttemptJournal",
    "BestOfK",
    "ChoiceProbabilities",
    "ChoiceShares",
    "FunctionFilter",
    "GracefulStop",
    "Improves",
    "JudgeCosts",
    "PhaseCheckpoint",
    "PolicyExport",
    "RankAgreement",
    "RankReport",
    "RestEmBuffer",
    "ResultsTable",
    "RewardFilter",
    "RoundReport",
    "SealProgressBar",
    "SelfEditFile",
    "SharedRunDir",
    "StartingPoint",
    "TopFraction",
]
