"""Maps and encoders whose distances are those of the data (extra ``embedding``).

`IsometricEmbedding` is the estimator, and `fitting` holds its steps: `blocks` computes the
distances of a batch, `cache` keeps distances on disk, `layout` places the classes, `network` and
`training` learn the map, and `picture` draws it with a scale bar.
"""

from isoreg.errors import import_extra

import_extra("sklearn", "embedding")  # before the import, since its error names the extra

from isoreg.embedding.estimator import IsometricEmbedding  # noqa: E402

__all__ = ["IsometricEmbedding"]
