"""For those who write a model: a suite that every model passes, and small data with a planted signal.

It needs pytest. A model is tested by a subclass of a few lines::

    from prismrec.testing import ModelConformance

    class TestMyModel(ModelConformance):
        config = MyModelConfig()
"""

from prismrec.testing.conformance import ModelConformance
from prismrec.testing.planted import Planted, cold_auc, fitted, planted

__all__ = ["ModelConformance", "Planted", "cold_auc", "fitted", "planted"]
