"""Fusion: one ranking from several retrievers."""
