"""Generates the complete configuration of a Triton model, without Triton's auto-completion."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from contracts.vocabulary import Digest, ServingSettings
from decisions.serving.fingerprints import fingerprint
from decisions.serving.settings import api_settings, engine_arguments

EngineKind = Literal["slipway", "toy"]
Device = Literal["cpu", "gpu"]

_Input = tuple[str, str, bool]
_Output = tuple[str, str, int]
"""Tensor name and type, then for inputs whether optional, for outputs the number of elements (-1: any)."""

_INPUTS = (
    ("text_input", "TYPE_STRING", True),
    ("sampling_parameters", "TYPE_STRING", True),
    ("return_logprobs", "TYPE_BOOL", True),
)
_OUTPUTS = (
    ("text_output", "TYPE_STRING", -1),
    ("finish_reason", "TYPE_STRING", -1),
    ("logprobs", "TYPE_STRING", -1),
    ("num_input_tokens", "TYPE_UINT32", 1),
    ("num_output_tokens", "TYPE_UINT32", -1),
)
_SCORING_INPUTS = (("prompt_token_ids", "TYPE_STRING", True), ("return_prompt_logprobs", "TYPE_BOOL", True))
_SCORING_OUTPUTS = (("prompt_logprobs", "TYPE_STRING", -1),)
"""Tensors of an engine that reports the log-probabilities of a prompt's tokens."""

_HTTP_INPUTS = (
    ("cache_salt", "TYPE_STRING", True),
    ("http_request", "TYPE_STRING", True),
    ("http_body", "TYPE_STRING", True),
)
_HTTP_OUTPUTS = (("http_body", "TYPE_STRING", -1), ("http_record", "TYPE_STRING", -1))
"""Tensors of the OpenAI API, and the salt of cached prefixes."""


ENGINE_ARGUMENTS = frozenset(
    {
        "async_scheduling",
        "block_size",
        "cpu_offload_gb",
        "disable_log_stats",
        "dtype",
        "enable_chunked_prefill",
        "enable_expert_parallel",
        "enable_prefix_caching",
        "enforce_eager",
        "gpu_memory_utilization",
        "kv_cache_dtype",
        "kv_cache_memory_bytes",
        "max_logprobs",
        "max_model_len",
        "max_num_batched_tokens",
        "max_num_seqs",
        "pipeline_parallel_size",
        "quantization",
        "scheduling_policy",
        "seed",
        "tensor_parallel_size",
    }
)
"""The vLLM arguments allowed in settings: sizes and kernels, none that names code, classes or files."""


@dataclass(frozen=True)
class EngineConfig:
    """The serving engine and its configuration.

    Raises ValueError for an engine argument that is not in `ENGINE_ARGUMENTS`.

    Attributes:
        kind: `slipway` is vLLM in Slipway's backend, `toy` for tests.
        engine_args: vLLM's engine arguments (context length, memory share …).
        environment: environment variables for vLLM.
        toy: parameters of the toy engine.
        api: settings of the engine's OpenAI API (the backend's `server_arguments`).
        device: vLLM's device; the backend has defaults for each.
    """

    kind: EngineKind = "slipway"
    engine_args: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    toy: Mapping[str, str] = field(default_factory=dict)
    api: Mapping[str, Any] = field(default_factory=dict)
    device: Device = "cpu"

    @property
    def scores(self) -> bool:
        """Whether the engine reports log-probabilities of prompts."""
        return self.kind == "slipway" or "token_nll" in self.toy

    def __post_init__(self) -> None:
        refused = sorted(set(self.engine_args) - ENGINE_ARGUMENTS)
        if refused:
            msg = f"engine_args may not set {', '.join(refused)}; it may set {', '.join(sorted(ENGINE_ARGUMENTS))}"
            raise ValueError(msg)


def plan_target(engine: EngineConfig, name: str, digest: Digest, settings: ServingSettings | None) -> EngineConfig:
    """Return the engine's configuration for a target: the version's settings override the fleet's.

    The API's answers name the model and the target's fingerprint.

    Args:
        engine: the fleet's configuration.
        name: name of the Triton model, `<model>.v<version>.<variant>`.
        digest: digest of the target's manifest.
        settings: the version's serving settings.
    """
    names = {"model": name.split(".", maxsplit=1)[0], "fingerprint": fingerprint(name, digest)}
    return replace(
        engine,
        engine_args={**engine.engine_args, **engine_arguments(settings)},
        api={**engine.api, **api_settings(settings), **names},
    )


def plan_model_files(name: str, model_dir: str, engine: EngineConfig) -> dict[str, str]:
    """Return the files of a Triton model: content by path in its repository folder.

    Args:
        name: name of the Triton model.
        model_dir: the engine's path to the weights.
        engine: the engine's configuration.
    """
    parameters = {"model_dir": model_dir, "api": json.dumps(dict(engine.api), sort_keys=True)}
    if engine.kind == "toy":
        if "max_model_len" in engine.engine_args:
            parameters["context_tokens"] = str(engine.engine_args["max_model_len"])
        parameters |= dict(engine.toy)
    else:
        parameters["device"] = engine.device
        parameters["engine_args"] = json.dumps(dict(engine.engine_args), sort_keys=True)
        parameters["environment"] = json.dumps(dict(engine.environment), sort_keys=True)
    inputs = _INPUTS + (_SCORING_INPUTS if engine.scores else ()) + _HTTP_INPUTS
    outputs = _OUTPUTS + (_SCORING_OUTPUTS if engine.scores else ()) + _HTTP_OUTPUTS
    # On a GPU, the engine chooses its devices, not Triton.
    kind = "KIND_MODEL" if engine.kind == "slipway" and engine.device == "gpu" else "KIND_CPU"
    # Triton needs a version folder; a file in it keeps tools from dropping it.
    return {
        "config.pbtxt": _render(name, engine.kind, kind, parameters, (inputs, outputs)),
        "1/model.txt": f"{name} is served from {model_dir}\n",
    }


def _render(
    name: str,
    backend: str,
    kind: str,
    parameters: Mapping[str, str],
    tensors: tuple[Sequence[_Input], Sequence[_Output]],
) -> str:
    inputs, outputs = tensors
    listed_inputs = ",\n".join(
        f"  {{ name: {_quote(tensor)} data_type: {data_type} dims: [ 1 ]{' optional: true' if optional else ''} }}"
        for tensor, data_type, optional in inputs
    )
    listed_outputs = ",\n".join(
        f"  {{ name: {_quote(tensor)} data_type: {data_type} dims: [ {size} ] }}" for tensor, data_type, size in outputs
    )
    settings = "".join(
        f"parameters {{ key: {_quote(key)} value {{ string_value: {_quote(value)} }} }}\n"
        for key, value in sorted(parameters.items())
    )
    return (
        f"name: {_quote(name)}\nbackend: {_quote(backend)}\nmax_batch_size: 0\n"
        "model_transaction_policy { decoupled: true }\n"
        f"input [\n{listed_inputs}\n]\noutput [\n{listed_outputs}\n]\n"
        f"instance_group [ {{ count: 1 kind: {kind} }} ]\n{settings}"
    )


def _quote(text: str) -> str:
    """Return a string in protobuf's text format: bytes outside printable ASCII as octal escapes."""
    written = "".join(
        f"\\{byte:03o}" if byte < 0x20 or byte > 0x7E or byte in b'"\\' else chr(byte) for byte in text.encode()
    )
    return f'"{written}"'
