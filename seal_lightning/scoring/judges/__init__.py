"""Judges: closed questions about texts to options, or to no decision and the reason."""

from seal_lightning.scoring.judges.cached_judge import CachedJudge
from seal_lightning.scoring.judges.endpoint_judge import EndpointJudge
from seal_lightning.scoring.judges.model_judge import ModelJudge
from seal_lightning.scoring.judges.tally import Prices
from seal_lightning.scoring.judges.wording import JudgeWording

__all__ = ["CachedJudge", "EndpointJudge", "JudgeWording", "ModelJudge", "Prices"]
