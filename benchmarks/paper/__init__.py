"""The paper's own experiments: MNIST, entangled rings, the torus."""
