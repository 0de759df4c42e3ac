from prismrec.models.random_items import RandomConfig
from prismrec.testing import ModelConformance


class TestConformance(ModelConformance):
    config = RandomConfig()
