"""Documents to passages: finding, converting and cutting files (docs/documents.md)."""

from seal_lightning.domains.knowledge.documents.source import Documents, Place, ReadDocument

__all__ = ["Documents", "Place", "ReadDocument"]
