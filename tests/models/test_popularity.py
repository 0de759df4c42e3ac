from prismrec.models.popularity import PopularityConfig
from prismrec.testing import ModelConformance


class TestConformance(ModelConformance):
    config = PopularityConfig()
