"""Ways to train a classifier, behind one interface: the one registry of all studies.

A method is a function from a model and options to what it contributes to the loss, a `Part`::

    @method("centre", title="centre loss", family="no local term", grid=grid("weight", 0.1, 1))
    def centre(model, *, weight): ...

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

- ``{}`` is cross-entropy. At most one method of a recipe may replace it; any number may add a term:
  ``{"first-order-margin": {"eps": 0.1}, "isometry": {"beta": 0.1, "scale": 10.0}}``.
- The objective runs the model itself, in the mode that the model is in. Attacks within it run in
  eval mode, so statistics of batches see only the images that are trained on.
- Images have pixels from 0 to 1; a model that wants them normalised does that inside.
- ``progress`` is the share of training that is done, from 0 to 1: radii grow from 0 to eps in its
  first half.
- ``objective(..., reference=rows)``: what features are to be compared with, a row an image;
  without it methods that compare take the images themselves.
- `rivals` has the methods with a ``grid``, the settings to choose from on validation data. The
  others are controls, or belong to another study.
- A method that cannot be used on a model raises `benchmarks.study.Skip` with the reason.
"""

from benchmarks.methods import adversarial, distances, gradients, lipschitz, plain
from benchmarks.methods.registry import METHODS, Method, attach, grid, method, rivals
from benchmarks.methods.step import Objective, Options, Part, Recipe, Step

__all__ = ["METHODS", "Method", "Objective", "Options", "Part", "Recipe", "Step"]
__all__ += ["adversarial", "attach", "distances", "gradients", "grid", "lipschitz"]
__all__ += ["method", "plain", "rivals"]
