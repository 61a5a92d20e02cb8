"""Isometry beside its rivals: every way to train, tuned alike, under one evaluation."""
