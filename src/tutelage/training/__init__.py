"""Learning with weights: the only package, beside `models/huggingface.py`, that imports torch."""
