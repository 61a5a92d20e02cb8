"""Robustness on MNIST without adversarial images: the recipe, its rivals, its parts, controls."""
