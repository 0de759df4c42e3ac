import pytest

from prismrec.base.errors import InputError
from prismrec.data.sources.all_sources import SOURCES, source_called


def test_every_source_is_complete() -> None:
    assert len({source.name for source in SOURCES}) == len(SOURCES)
    for source in SOURCES:
        assert all((source.about, source.licence, source.citation))
        for file in source.files:
            assert file.url.startswith("https://") or (not file.url and file.about)
            assert file.md5 is None or len(file.md5) == 32
            assert file.sha256 is None or len(file.sha256) == 64
    with pytest.raises(InputError, match="no source 'amazon-2014/babies'") as caught:
        source_called("amazon-2014/babies")
    assert "amazon-2014/baby" in str(caught.value)
