"""Files beside the weights are read whole, so they are bounded; weights are not."""

import pytest

from services.merger.domain import SMALL_FILE_BYTES, assess_small_files


@pytest.mark.parametrize(
    ("path", "size", "refused"),
    [
        ("tokenizer.json", SMALL_FILE_BYTES, False),
        ("tokenizer.json", SMALL_FILE_BYTES + 1, True),
        ("vocab.json", 10**12, True),
        ("chat_template.jinja", 10**12, True),
        ("model.safetensors", 10**12, False),
    ],
)
def test_the_limit_of_files_beside_the_weights(path, size, refused):
    rejection = assess_small_files({"config.json": 100, path: size})
    assert (rejection is not None) == refused
    if rejection is not None:
        assert (rejection.code, rejection.details) == ("too_large", {"path": path})
        assert f"{path} has {size} bytes" in rejection.reason
