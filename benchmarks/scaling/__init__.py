"""What pairs across ranks cost: measured on few ranks, modelled for many."""
