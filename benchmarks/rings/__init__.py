"""The paper's entangled rings: figures 1A and 2."""
