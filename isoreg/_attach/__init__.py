"""What happens inside somebody's model: which layers, which pass, which tensor is the reference.

`layers` and `classifier` find where features are recorded, `samples` and `reference` what they
are compared with. `recorder` follows the passes; `places` are the watched layers, `seeking` is the
search for a classifier, `reader` makes features of what layers give. `checks` refuses, `balance`
and `monitor` measure.
"""
