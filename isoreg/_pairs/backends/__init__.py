"""What computes a call; `isoreg._pairs.engine` says what each backend answers."""
