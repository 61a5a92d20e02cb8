"""What the library's parts do: attacks, automatic weights, attaching, speed, pairs across ranks."""
