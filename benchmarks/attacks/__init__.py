"""The attacks of the report card against plain PGD and known optima: torchattacks checked."""
