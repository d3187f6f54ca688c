"""Late interaction: ragged token embeddings grouped by modality, and exact MaxSim over them."""

from __future__ import annotations

from harness.late_interaction.embeddings import TokenEmbeddings
from harness.late_interaction.maxsim import MaxSim, max_sim

__all__ = ["MaxSim", "TokenEmbeddings", "max_sim"]
