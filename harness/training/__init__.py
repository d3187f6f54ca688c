"""Training: one adapter for every retriever that can be trained."""
