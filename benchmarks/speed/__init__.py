"""What the penalty costs: against the plain version, in memory, and in a training step."""
