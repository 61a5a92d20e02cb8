"""The backends that compute calls; `isoreg._pairs.engine` says which functions each must have."""
