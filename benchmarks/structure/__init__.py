"""What features keep of a structure that the labels do not mention."""
