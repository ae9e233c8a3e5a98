"""Judges: a closed question about texts to one of its options, or to no decision and a reason."""

from seal_lightning.scoring.judges.cached_judge import CachedJudge
from seal_lightning.scoring.judges.endpoint_judge import EndpointJudge
from seal_lightning.scoring.judges.model_judge import ModelJudge
from seal_lightning.scoring.judges.tally import Prices
from seal_lightning.scoring.judges.wording import JudgeWording

__all__ = ["CachedJudge", "EndpointJudge", "JudgeWording", "ModelJudge", "Prices"]
