"""Whether ``beta="auto"`` finds what a search for beta finds, on two data sets."""
