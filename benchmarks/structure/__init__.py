"""Coarse to fine: what features keep that labels throw away, and what else geometry might do."""
