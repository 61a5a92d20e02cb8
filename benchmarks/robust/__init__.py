"""Robustness on MNIST without adversarial images: the recipe and its rivals."""
