"""timm's models on photographs: what the penalty costs in timm's own training, and what it does."""
