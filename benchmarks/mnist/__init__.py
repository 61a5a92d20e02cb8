"""The paper's MNIST experiment (table 1 and figure 3), and a standard attack beside its own."""
