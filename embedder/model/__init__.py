"""The unified embedding: network, training, evaluation, and the artifact in which a model travels."""
