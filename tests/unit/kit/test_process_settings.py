"""What a test changed in its process is named."""

import torch

from tests.kit.process_settings import left_behind, process_settings


def test_what_is_left_behind_is_named(monkeypatch):
    before = process_settings()
    switch, threads = "torch.backends.mkldnn.matmul.fp32_precision", torch.get_num_threads()
    assert switch in before, "what the test is about"
    assert left_behind(before, {**before, switch: "bf16"}) == [f"{switch} was 'none' and is 'bf16'"]
    changes = left_behind(before, {**before, "torch.threads": threads + 1})
    assert changes == [f"torch.threads was {threads} and is {threads + 1}"]
    without_torch = {name: value for name, value in before.items() if not name.startswith("torch")}
    assert left_behind(without_torch, before) == [], "torch as it is imported"
    assert len(left_behind(without_torch, {**before, switch: "bf16"})) == 1, (
        "torch that was loaded meanwhile is no excuse"
    )
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    assert left_behind(before, process_settings()) == ["environment ONEDNN_MAX_CPU_ISA was None and is 'AVX2'"]
    monkeypatch.undo()
