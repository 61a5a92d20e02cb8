"""The paper's torus with its label hierarchy: figure 4."""
