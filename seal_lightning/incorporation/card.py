"""The model card."""

from seal_lightning.incorporation.record import AdaptedRecord


def model_card(record: AdaptedRecord, name: str) -> str:
    """PLACE of a colleague's."""
    return f"# {name}\n"
