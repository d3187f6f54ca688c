"""Built-in retrievers; each registers through the same entry points as anyone's plugin."""
