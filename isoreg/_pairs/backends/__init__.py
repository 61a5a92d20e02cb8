"""Ways to add up pairs, interchangeable."""
