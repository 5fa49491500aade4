"""Pixels to codes: decode, micro-batch, encode, binarize; the embed worker and the model."""
