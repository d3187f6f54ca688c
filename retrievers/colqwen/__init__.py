"""ColQwen: late interaction over pages seen by a Qwen backbone (ColPali, arXiv 2407.01449)."""
