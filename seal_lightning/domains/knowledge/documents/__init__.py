"""Documents to passages: what is found, how it is read, and where it is cut (docs/documents.md)."""

from seal_lightning.domains.knowledge.documents.source import Documents, Place, ReadDocument

__all__ = ["Documents", "Place", "ReadDocument"]
