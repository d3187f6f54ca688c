"""Late interaction: ragged token embeddings grouped by modality, and exact MaxSim over them."""

from __future__ import annotations

from harness.late_interaction.embeddings import NonFiniteError, TokenEmbeddings
from harness.late_interaction.maxsim import Scores, max_sim
from harness.late_interaction.precision import Precision
from harness.late_interaction.scoring import Scoring
from harness.late_interaction.winners import Winners, winners

__all__ = [
    "NonFiniteError",
    "Precision",
    "Scores",
    "Scoring",
    "TokenEmbeddings",
    "Winners",
    "max_sim",
    "winners",
]
