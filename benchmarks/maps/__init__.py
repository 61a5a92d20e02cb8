"""Maps of data with classes: how well each method keeps distances, on held-out samples."""
