"""Merge a LoRA from the store to the store: time and memory, compared with PEFT and with a plain copy.

A Llama with random bfloat16 weights in several shards and a LoRA (r=16) on all its linear layers are created and put
into a real S3 server. Then, each in its own process:

- **ours**: what the merger's worker does, from the first header to the last uploaded shard; then its verification
  (reading the result back, logits of both sides). Peak memory does not include the imports.
- **PEFT**: `from_pretrained`, `merge_and_unload`, `save_pretrained` on a local disk, in float32 (the same bits as ours)
  and in bfloat16 (other bits: it rounds before it adds). Fetching the base and uploading the result take as long as the
  plain copy: that is the row "with get and put".
- **plain copy**: the same bytes fetched to disk and put under new keys by the S3 SDK, file by file; the lower bound of
  the time for anything that goes through this store.

Run: python benchmarks/bench_merge.py [SIZE_GB ...] (default 0.3 1 3)
"""

import json
import math
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.parts import show_table
from contracts.facts import BaseModelRef
from services.merger.adapters import worker
from services.merger.adapters.engine import ENVIRONMENT, dump_job
from services.merger.ports import Folder, MergeJob
from shared.runtime.settings import Connection
from shared.storage.blobs import Store, blob_key
from testbed.servers import S3Server, connection, running, store_variables

DIGEST = "sha256:" + "0" * 64
VOCABULARY = 49_152  # that of the packaged tokenizer
LINEAR = {"self_attn": ("q_proj", "k_proj", "v_proj", "o_proj"), "mlp": ("gate_proj", "up_proj", "down_proj")}
RANK = 16


def make_base(folder: Path, size_gb: float) -> int:
    """Write a Llama with random weights of about this size in shards; return the size of the largest."""
    import torch
    from safetensors.torch import save_file
    from transformers import LlamaConfig, LlamaForCausalLM

    from examples.smollm2.base import save_smollm2

    save_smollm2(folder)
    (folder / "model.safetensors").unlink()
    hidden = 1024 if size_gb < 1 else 2048
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=hidden,
        intermediate_size=hidden * 11 // 4,
        num_attention_heads=hidden // 128,
        num_key_value_heads=hidden // 256,
        tie_word_embeddings=False,
        dtype="bfloat16",
        num_hidden_layers=1,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
    )
    with torch.device("meta"):
        layer_parameters = sum(tensor.numel() for tensor in LlamaForCausalLM(config).model.layers[0].parameters())
        config.num_hidden_layers = max(2, round((size_gb * 1e9 / 2 - 2 * VOCABULARY * hidden) / layer_parameters))
        shapes = {name: tensor.shape for name, tensor in LlamaForCausalLM(config).named_parameters()}
    config.architectures = ["LlamaForCausalLM"]
    config.save_pretrained(folder)
    limit = 150e6 if size_gb < 1 else 500e6
    shards: list[list[str]] = [[]]
    for name in shapes:
        if sum(math.prod(shapes[other]) for other in [*shards[-1], name]) * 2 > limit and shards[-1]:
            shards.append([])
        shards[-1].append(name)
    index, generator = {}, torch.Generator().manual_seed(0)
    for position, names in enumerate(shards):
        path = f"model-{position + 1:05d}-of-{len(shards):05d}.safetensors"
        empty = {name: torch.empty(shapes[name], dtype=torch.bfloat16) for name in names}
        tensors = {name: tensor.normal_(std=0.02, generator=generator) for name, tensor in empty.items()}
        save_file(tensors, folder / path, metadata={"format": "pt"})
        index |= dict.fromkeys(names, path)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
    return max(path.stat().st_size for path in folder.glob("*.safetensors"))


def make_lora(base: Path, folder: Path) -> None:
    """Write a LoRA on every linear layer."""
    import torch
    from peft import LoraConfig
    from safetensors import safe_open
    from safetensors.torch import save_file

    names = [name for group in LINEAR.values() for name in group]
    LoraConfig(r=RANK, lora_alpha=32, target_modules=names, task_type="CAUSAL_LM").save_pretrained(folder)
    tensors = {}
    for path in base.glob("*.safetensors"):
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 - not a mapping
                if any(f".{module}." in name for module in names):
                    rows, columns = file.get_slice(name).get_shape()
                    stem = f"base_model.model.{name.removesuffix('.weight')}"
                    tensors[f"{stem}.lora_A.weight"] = torch.randn(RANK, columns) * 0.02
                    tensors[f"{stem}.lora_B.weight"] = torch.randn(rows, RANK) * 0.02
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})


# -- each in its own process ----------------------------------------------------------------------------------------


def measured(steps: list[Callable[[], object]]) -> dict[str, float]:
    """Run steps one after another; return the seconds and the additional peak memory of each."""
    memory = Path("/proc/self/status")
    before = next(int(line.split()[1]) for line in memory.read_text().splitlines() if line.startswith("VmRSS")) * 1024
    figures: dict[str, float] = {}
    for step in steps:
        Path("/proc/self/clear_refs").write_text("5")  # resets the high-water mark
        began = time.monotonic()
        step()
        figures[f"{step.__name__}_s"] = time.monotonic() - began
        figures[f"{step.__name__}_bytes"] = worker.peak_rss_bytes() - before
    return figures


def ours(path: str) -> dict[str, float]:
    """Merge and prove as the merger's child does."""
    from services.merger.adapters import inputs, torch_checks, torch_merge, verify

    job, store = worker.parse_job(Path(path).read_text()), Store(Connection())
    steps: dict[str, Any] = {}

    def quiet(*_told: object) -> None:
        pass

    def merge() -> None:
        steps["inputs"] = inputs.open_inputs(store, job, quiet)
        steps["checked"] = torch_checks.check(steps["inputs"])
        steps["written"] = torch_merge.write(store, steps["inputs"], steps["checked"], lambda _step, _unit: quiet)

    def verify_stored() -> None:
        worker.release_memory()
        steps["verification"] = verify.verify_stored(store, steps["inputs"], steps["checked"], steps["written"], quiet)

    figures = measured([merge, verify_stored])
    return {**figures, "mean_kl": steps["verification"].parity.mean_kl}


def peft(base: str, lora: str, out: str, dtype: str) -> dict[str, float]:
    """Load, merge and save with PEFT."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    def merge() -> None:
        model = AutoModelForCausalLM.from_pretrained(base, dtype=getattr(torch, dtype))
        model = PeftModel.from_pretrained(model, lora).merge_and_unload(safe_merge=True)
        model.to(torch.bfloat16).save_pretrained(out)

    return measured([merge])


def in_process(connection_: Connection, *arguments: str) -> dict[str, float]:
    """Run one of the functions above in its own process."""
    environment = {
        **store_variables(connection_, "merger"),
        "PATH": "/usr/bin",
        **ENVIRONMENT,
    }
    done = subprocess.run([sys.executable, __file__, *arguments], env=environment, check=True, stdout=subprocess.PIPE)
    return json.loads(done.stdout.splitlines()[-1])


# -- all of them, for one size --------------------------------------------------------------------------------------


def copy_plainly(store: Store, folder: Folder, scratch: Path) -> float:
    """Fetch every shard to disk and put it under a new key with the SDK's own calls; return the seconds."""
    client, began = store._client, time.monotonic()  # noqa: SLF001 - the SDK's client
    for file in folder.files:
        key, local = blob_key(file.digest, folder.prefix), str(scratch / "copy")
        client.fget_object(bucket_name=store.bucket, object_name=key, file_path=local)
        client.fput_object(bucket_name=store.bucket, object_name=f"copy/{key}", file_path=local)
        Path(local).unlink()
    return time.monotonic() - began


def compare(size_gb: float) -> list[list[str]]:
    """Measure everything for one size; return the rows of the table."""
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        server = stack.enter_context(running(S3Server(scratch)))
        settings = connection(None, server, scratch)
        store, base, lora = Store(settings), scratch / "base", scratch / "lora"
        largest = make_base(base, size_gb)
        make_lora(base, lora)
        folders = {
            path.name: Folder(DIGEST, store.put_folder(path, f"{path.name}/").files, f"{path.name}/")
            for path in (base, lora)
        }
        job = MergeJob(
            kind="lora",
            base_ref=BaseModelRef(name="acme/random", revision="1", uri="s3://x/y", digest=DIGEST),
            hyperparameters={},
            base=folders["base"],
            checkpoint=folders["lora"],
            scratch_dir=scratch / "work",
            dtype="bfloat16",
        )
        (scratch / "job.json").write_text(dump_job(job))
        own = in_process(settings, "ours", str(scratch / "job.json"))
        copied_s = copy_plainly(store, folders["base"], scratch)
        theirs = {}
        for dtype in ("float32", "bfloat16"):
            theirs[dtype] = in_process(settings, "peft", str(base), str(lora), str(scratch / "out"), dtype)
            shutil.rmtree(scratch / "out")
    total = sum(file.size_bytes for file in folders["base"].files)
    shards = sum(file.path.endswith(".safetensors") for file in folders["base"].files)
    size = f"{total / 1e9:.2f} GB in {shards} shards of at most {largest / 1e6:.0f} MB"
    exact = theirs["float32"]

    def row(what: str, seconds: float, peak_bytes: float | None = None) -> list[str]:
        peak = "" if peak_bytes is None else f"{peak_bytes / 1e6:.0f}"
        share = "" if peak_bytes is None else f"{peak_bytes / largest:.2f}"
        return [size, what, f"{seconds:.1f}", f"{total / seconds / 1e6:.0f}", peak, share]

    return [
        row("ours: merge, store to store", own["merge_s"], own["merge_bytes"]),
        row("ours: verification after reading back", own["verify_stored_s"], own["verify_stored_bytes"]),
        row("PEFT float32, local disk only", exact["merge_s"], exact["merge_bytes"]),
        row("PEFT float32, with get and put", exact["merge_s"] + copied_s, exact["merge_bytes"]),
        row("PEFT bfloat16, local disk only", theirs["bfloat16"]["merge_s"], theirs["bfloat16"]["merge_bytes"]),
        row("plain copy: get and put", copied_s),
    ]


def main(sizes: list[str]) -> None:
    table = [line for size in sizes or ["0.3", "1", "3"] for line in compare(float(size))]
    show_table(["base", "what", "s", "MB/s", "peak above imports, MB", "peak / largest shard"], table)


if __name__ == "__main__":
    steps = {"ours": ours, "peft": peft}
    if len(sys.argv) > 1 and sys.argv[1] in steps:
        print(json.dumps(steps[sys.argv[1]](*sys.argv[2:])))
    else:
        main(sys.argv[1:])
