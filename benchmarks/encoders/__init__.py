"""Networks that stand in for an expensive distance, trained in four ways at equal cost."""
