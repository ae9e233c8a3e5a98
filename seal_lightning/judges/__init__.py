"""Judges: closed questions about texts to options, or to no decision and the reason."""

from seal_lightning.judges.cached_judge import CachedJudge
from seal_lightning.judges.endpoint_judge import EndpointJudge
from seal_lightning.judges.model_judge import ModelJudge
from seal_lightning.judges.tally import Prices
from seal_lightning.judges.wording import JudgeWording

__all__ = ["CachedJudge", "EndpointJudge", "JudgeWording", "ModelJudge", "Prices"]
