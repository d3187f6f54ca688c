"""PreFLMR: late interaction of a question about a picture with passages."""
