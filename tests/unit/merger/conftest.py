"""A tiny base and a LoRA on it, made once; each test gets copies that it may break."""

import shutil

import pytest

from contracts.facts import BaseModelRef
from services.merger.ports import MergeOrder

DIGEST = "sha256:" + "0" * 64
BASE_REF = BaseModelRef(name="acme/tiny-llama", revision="1", uri="s3://slipway/bases/x", digest=DIGEST)


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """Folders that no test may change."""
    from tests.kit.models import tiny_base, tiny_full, tiny_lora

    root = tmp_path_factory.mktemp("models")
    base = tiny_base(root / "base")
    untied = tiny_base(root / "untied", tied=False)
    return {
        "base": base,
        "untied": untied,
        "lora": tiny_lora(base, root / "lora"),
        "full": tiny_full(base, root / "full"),
    }


@pytest.fixture
def order(made, tmp_path):
    """Make a merge order on copies of a base and a checkpoint."""

    def make(*, checkpoint="lora", base="base", kind="lora", dtype="bfloat16") -> MergeOrder:
        folders = {}
        for role, name in (("base", base), ("checkpoint", checkpoint)):
            source = made[name] if isinstance(name, str) else name
            folders[role] = tmp_path / f"order-{role}"
            shutil.copytree(source, folders[role])
        return MergeOrder(
            kind=kind, base_ref=BASE_REF, dtype=dtype, out=tmp_path / "out", stored=tmp_path / "out", **folders
        )

    return make
