"""Maps of data with classes: what each method keeps of the distances, on held-out samples."""
