"""The generated configuration of Triton models, and the description read from model folders."""

import json

import pytest
from google.protobuf import text_format
from hypothesis import given
from hypothesis import strategies as st

from contracts.vocabulary import ServingSettings
from decisions.serving.settings import ENGINE_OPTIONS, engine_arguments
from services.server_manager.domain.description import Description, describe_model
from services.server_manager.domain.model_config import ENGINE_ARGUMENTS, EngineConfig, plan_model_files, plan_target
from services.server_manager.settings import ServerManagerSettings

pytest.importorskip("tritonclient.grpc")
from tritonclient.grpc import model_config_pb2


def parse(name, folder, config):
    files = plan_model_files(name, folder, config)
    return text_format.Parse(files["config.pbtxt"], model_config_pb2.ModelConfig()), files


def test_the_cpu_engine_is_configured_in_full():
    config = EngineConfig("slipway", {"max_model_len": 512}, {"VLLM_CPU_KVCACHE_SPACE": "1"})
    model, files = parse("bot.v1.bf16", "/models/x", config)
    assert (model.name, model.backend, model.max_batch_size) == ("bot.v1.bf16", "slipway", 0)
    assert model.model_transaction_policy.decoupled
    given_parameters = {key: value.string_value for key, value in model.parameters.items()}
    assert given_parameters["model_dir"] == "/models/x"
    assert json.loads(given_parameters["engine_args"]) == {"max_model_len": 512}
    assert json.loads(given_parameters["environment"]) == {"VLLM_CPU_KVCACHE_SPACE": "1"}
    assert any(name.startswith("1/") for name in files), "Triton needs a version folder"


@pytest.mark.parametrize("kind", ["slipway", "toy"])
def test_the_api_names_the_model_and_the_fingerprint_that_the_gateway_computes(kind):
    digest = "sha256:" + "0123456789abcdef" * 4
    config = plan_target(EngineConfig(kind, api={"limits": {"answers": 4}}), "support-bot.v3.int8", digest, None)
    model, _ = parse("support-bot.v3.int8", "/models/x", config)
    assert json.loads(model.parameters["api"].string_value) == {
        "model": "support-bot",
        "fingerprint": "fp_support-bot.v3.int8.01234567",
        "limits": {"answers": 4},
    }


def test_the_toy_engine_has_the_context_of_the_settings():
    model, _ = parse("bot.v1.bf16", "/models/x", EngineConfig("toy", {"max_model_len": 512}, toy={"tokens": "4"}))
    assert {name: model.parameters[name].string_value for name in ("context_tokens", "tokens")} == {
        "context_tokens": "512",
        "tokens": "4",
    }


def test_the_settings_of_a_version_are_loaded_over_those_of_the_fleet():
    settings = ServingSettings(
        tool_parser="hermes",
        template_options={"enable_thinking": False},
        context_tokens=512,
        options={"max_num_seqs": 2},
    )
    fleet = EngineConfig("slipway", {"max_model_len": 2048, "gpu_memory_utilization": 0.5})
    model, _ = parse("bot.v3.int8", "/models/x", plan_target(fleet, "bot.v3.int8", "sha256:" + "0" * 64, settings))
    assert json.loads(model.parameters["engine_args"].string_value) == {
        "max_model_len": 512,
        "gpu_memory_utilization": 0.5,
        "max_num_seqs": 2,
    }
    assert json.loads(model.parameters["api"].string_value) == {
        "model": "bot",
        "fingerprint": "fp_bot.v3.int8.00000000",
        "tool_parser": "hermes",
        "template_options": {"enable_thinking": False},
    }


def test_every_option_of_a_version_is_an_argument_of_the_engine():
    settings = ServingSettings(context_tokens=1, tensor_parallel_size=1)
    assert {*ENGINE_OPTIONS, *engine_arguments(settings)} <= ENGINE_ARGUMENTS
    assert not {"dtype", "quantization", "max_model_len"} & set(ENGINE_OPTIONS)


def test_all_engines_speak_the_same_tensors_and_ours_can_score_a_prompt_besides():
    tensors = []
    for config in (
        EngineConfig("slipway"),
        EngineConfig("toy", toy={"token_nll": "2"}),
        EngineConfig("toy"),
        EngineConfig("slipway", device="gpu"),
    ):
        model, _ = parse("bot.v1.bf16", "/models/x", config)
        tensors.append(
            {(tensor.name, tensor.data_type, tuple(tensor.dims)) for tensor in (*model.input, *model.output)}
        )
        assert not [tensor.name for tensor in model.input if not tensor.optional]
    assert tensors[0] == tensors[1] == tensors[3] > tensors[2]
    assert {"http_request", "http_body", "http_record"} <= {name for name, _, _ in tensors[2]}
    beyond = {name for name, _, _ in tensors[1] - tensors[2]}
    assert beyond == {"prompt_token_ids", "return_prompt_logprobs", "prompt_logprobs"}


def test_a_gpu_has_the_same_backend_which_chooses_its_device():
    config = EngineConfig("slipway", {"gpu_memory_utilization": 0.4}, device="gpu")
    model, _ = parse("bot.v1.bf16", "/models/x", config)
    assert model.backend == "slipway"
    assert model.instance_group[0].kind == model_config_pb2.ModelInstanceGroup.KIND_MODEL
    assert model.parameters["device"].string_value == "gpu"
    assert json.loads(model.parameters["engine_args"].string_value) == {"gpu_memory_utilization": 0.4}
    on_cpu, _ = parse("bot.v1.bf16", "/models/x", EngineConfig("slipway"))
    assert on_cpu.instance_group[0].kind == model_config_pb2.ModelInstanceGroup.KIND_CPU


@pytest.mark.parametrize("kind", ["slipway", "toy"])
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("trust_remote_code", True),
        ("trust_remote_code", False),
        ("model", "/other"),
        ("tokenizer", "/other"),
        ("hf_overrides", {"auto_map": {}}),
        ("worker_cls", "evil.Worker"),
        ("load_format", "pt"),
        ("Max_Model_Len", 1),
    ],
)
def test_engine_arguments_beyond_the_list_are_refused_by_name(kind, name, value):
    with pytest.raises(ValueError, match=f"engine_args may not set {name}; it may set .*max_model_len"):
        EngineConfig(kind, engine_args={"max_model_len": 512, name: value})
    with pytest.raises(ValueError, match=name):
        ServerManagerSettings(engine=kind, engine_args={name: value}).engine_config()


def test_every_argument_of_the_list_is_one_of_the_engine():
    assert {"gpu_memory_utilization", "max_model_len"} <= ENGINE_ARGUMENTS
    assert not {"trust_remote_code", "model", "tokenizer", "hf_overrides", "load_format"} & ENGINE_ARGUMENTS


@given(st.text())
def test_any_folder_name_survives_the_text_format(folder):
    model, _ = parse("bot.v1.bf16", folder, EngineConfig("toy"))
    assert model.parameters["model_dir"].string_value == folder


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, Description(None, None, None, 2048)),
        ({"config.json": "not json", "tokenizer_config.json": "[]"}, Description(None, None, None, 2048)),
        (
            {"config.json": '{"max_position_embeddings": 8192}', "tokenizer_config.json": '{"bos_token": "<s>"}'},
            Description(None, "<s>", None, 2048),
        ),
        (
            {"config.json": '{"max_position_embeddings": 512}', "tokenizer_config.json": '{"chat_template": "old"}'},
            Description("old", None, None, 512),
        ),
        (
            {
                "chat_template.jinja": "new",
                "tokenizer_config.json": '{"chat_template": "old", "eos_token": {"content": "</s>"}}',
            },
            Description("new", None, "</s>", 2048),
        ),
    ],
)
def test_descriptions(files, expected):
    assert describe_model(files, max_model_len=2048) == expected
