"""Whether the regularizer attaches to every architecture of timm, and to transformers."""
