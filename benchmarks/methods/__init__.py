"""Ways to train a classifier behind one interface, in one registry for all studies.

A method is a function from a model and options to a `Part`, its contribution to training::

    @method("centre", title="centre loss", family="no local term", grid=grid("weight", 0.1, 1))
    def centre(model, *, weight): ...

A recipe maps names in `METHODS` to options that can be written as JSON::

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
- The objective runs the model itself, in the model's present mode. Attacks inside it run in eval
  mode, so that batch norm's statistics come only from the images that are trained on.
- Images have pixels from 0 to 1; a model that needs normalised pixels normalises them itself.
- ``progress`` is the share of training that is done, from 0 to 1. Attack radii grow from 0 to eps
  in the first half.
- ``objective(..., reference=rows)`` gives one row per image, with which features are compared;
  without it, methods that compare features take the images themselves.
- `rivals` returns the methods with a ``grid`` of settings to choose from on validation data. The
  others are controls, or belong to another study.
- If a method cannot be used on a model, it should raise `benchmarks.study.Skip` with the reason.
"""

from benchmarks.methods import adversarial, distances, gradients, lipschitz, plain
from benchmarks.methods.registry import METHODS, Method, attach, grid, method, rivals
from benchmarks.methods.step import Objective, Options, Part, Recipe, Step

__all__ = ["METHODS", "Method", "Objective", "Options", "Part", "Recipe", "Step"]
__all__ += ["adversarial", "attach", "distances", "gradients", "grid", "lipschitz"]
__all__ += ["method", "plain", "rivals"]
