"""Run by ``make core`` with nothing installed but torch: the core imports and works."""

from __future__ import annotations

import sys


def main() -> None:
    import torch
    from torch import nn

    import isoreg

    model = nn.Sequential(nn.Linear(8, 4), nn.Tanh(), nn.Linear(4, 2))
    iso = isoreg.IsometryRegularizer(model, beta=0.1)
    x, y = torch.rand(16, 8), torch.randint(2, (16,))
    loss = nn.functional.cross_entropy(model(x), y) + iso(y)
    loss.backward()
    if not (loss.isfinite() and all(p.grad is not None for p in model.parameters())):
        sys.exit("the loss is not finite or gives no gradient")
    try:
        isoreg.datasets.digits("train")
    except isoreg.MissingExtraError as error:
        if "isoreg[data]" not in str(error):
            sys.exit(f"the error does not name the extra: {error}")
    else:
        sys.exit("scikit-learn is installed: this is not the environment of torch alone")
    print(f"isoreg works with torch {torch.__version__} alone")


if __name__ == "__main__":
    main()
