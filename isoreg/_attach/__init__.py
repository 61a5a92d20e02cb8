"""What happens inside somebody's model: which layers, which pass, which tensor is the reference.

`layers` and `classifier` find where features are recorded, `samples` and `reference` what they
are compared with, `recorder` holds the hooks, `checks` refuses, `balance` and `monitor` measure.
"""
