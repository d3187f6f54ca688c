"""CLIP and SigLIP: an image tower and a text tower with one space of vectors."""
