"""Ways to train a classifier, behind one interface: what benchmarks compare with each other.

A recipe is a mapping from names in `METHODS` to options, plain enough for JSON::

    recipe = {"isometry": {"beta": 0.1}}
    with attach(model, recipe) as objective:
        optimizer = torch.optim.Adam(model.parameters())  # in the block: parameters may change
        for step, (images, labels) in enumerate(batches):
            loss = objective(images, labels, progress=step / steps)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            objective.after_step()
    # the model is a plain one again: hooks are gone, parametrizations are baked in

- ``{}`` is cross-entropy. At most one method of a recipe may replace cross-entropy (adversarial
  training, TRADES, the first-order margin, ...); any number may add a term to it:
  ``{"first-order-margin": {"eps": 0.1}, "isometry": {"beta": 0.1, "scale": 10.0}}``.
- The objective runs the model itself, in the mode that the model is in. Attacks within it run in
  eval mode, so statistics of batches see only the images that are trained on.
- Images have pixels from 0 to 1; a model that wants them normalised does that inside.
- ``progress`` is the share of training that is done, from 0 to 1: radii grow from 0 to eps while it
  goes to ``ramp`` (an option of each method with a radius; half of training by default).
- ``METHODS[name].grid`` holds the settings among which to choose on validation data, each a dict of
  options; ``settings()`` gives all as (name, recipe), cross-entropy first.
- A recipe may also name one of `CONTROLS`: what acts where the isometry penalty does, without its
  geometry; or one of `GEOMETRY`: what was tried to make geometry help against attacks.
"""

from benchmarks.objectives.methods import CONTROLS, GEOMETRY, METHODS, Method, attach, settings
from benchmarks.objectives.step import Objective

__all__ = ["CONTROLS", "GEOMETRY", "METHODS", "Method", "Objective", "attach", "settings"]
