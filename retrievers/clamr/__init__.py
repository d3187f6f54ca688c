"""CLaMR: late interaction over one contextualised sequence of all modalities (arXiv 2506.06144)."""
