"""The engine: from labels and rows to blocks of pairs, and from blocks to values and gradients."""
