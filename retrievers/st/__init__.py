"""Models of the sentence-transformers library: dense, multi-vector and sparse."""
