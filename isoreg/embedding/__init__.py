"""Maps and encoders whose distances are those of the data (extra ``embedding``).

`IsometricEmbedding` is the estimator. What stands behind it: `blocks` (the distances of a batch,
whatever they cost), `cache` (distances on disk), `layout` (where the classes go), `network`,
`training`, and `picture` (the map drawn, with a scale bar).
"""

from isoreg.errors import import_extra

import_extra("sklearn", "embedding")

from isoreg.embedding.estimator import IsometricEmbedding  # noqa: E402 - says what is missing first

__all__ = ["IsometricEmbedding"]
