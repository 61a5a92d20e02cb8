"""The part that works inside the user's model: it finds layers, follows passes, reads features.

`layers` and `classifier` find the modules whose features are recorded; `samples` and `reference`
find what the features are compared with. `recorder` follows the forward passes with hooks, `places`
holds the watched layers, `seeking` searches for the classifier, and `reader` turns what a layer
gives into features. `checks` refuses wrong input; `balance` and `monitor` measure.
"""
