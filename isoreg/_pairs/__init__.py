"""The engine of pairs: what the penalty adds up, and the backends that do it."""
