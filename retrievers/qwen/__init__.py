"""What CLaMR and ColQwen share: Qwen backbones with a projection, their inputs and their files."""
