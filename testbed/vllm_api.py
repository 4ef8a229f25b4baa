"""The paths of vLLM's OpenAI application, the fields of the bodies that they take, and its parsers.

For the engine's interpreter; no engine is started. Development mode, profiler and fault tolerance are on, and all
kinds of models are supported, so that their paths are listed, too.
"""

import os
from typing import Any

TASKS = ("generate", "transcription", "realtime")
OPTIONS = ["--profiler-config.profiler", "torch", "--profiler-config.torch_profiler_dir", "/tmp"]
OPTIONS += ["--enable-fault-tolerance"]


def describe() -> dict[str, Any]:
    """Return `{"paths": {path: methods}, "fields": {path: names}, "parsers": {kind: names}, "given": names}`."""
    os.environ.update({"VLLM_SERVER_DEV_MODE": "1", "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1"})
    from transformers import PreTrainedTokenizerBase
    from transformers.utils.chat_template_utils import _compile_jinja_template
    from vllm.entrypoints.launchers.app import build_app
    from vllm.entrypoints.launchers.cli_args import make_arg_parser
    from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
    from vllm.entrypoints.openai.completion.protocol import CompletionRequest
    from vllm.entrypoints.openai.responses.protocol import ResponsesRequest
    from vllm.entrypoints.pooling.classify import api_router as classify
    from vllm.entrypoints.pooling.embed import api_router as embedding
    from vllm.entrypoints.pooling.embed import protocol as embed
    from vllm.entrypoints.pooling.pooling import api_router as pooled
    from vllm.entrypoints.pooling.scoring import api_router as scoring
    from vllm.entrypoints.serve.tokenize import protocol as tokenize
    from vllm.reasoning import ReasoningParserManager
    from vllm.renderers.hf import _get_hf_base_chat_template_params
    from vllm.tool_parsers import ToolParserManager
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    app = build_app(make_arg_parser(FlexibleArgumentParser()).parse_args(OPTIONS), supported_tasks=TASKS)
    for pooling in (classify, embedding, pooled, scoring):
        app.include_router(pooling.router)  # vLLM adds each for a model of its kind
    bodies = {
        "/v1/chat/completions": [ChatCompletionRequest],
        "/v1/completions": [CompletionRequest],
        "/v1/responses": [ResponsesRequest],
        "/v1/embeddings": [embed.EmbeddingCompletionRequest, embed.EmbeddingChatRequest],
        "/tokenize": [tokenize.TokenizeCompletionRequest, tokenize.TokenizeChatRequest],
        "/detokenize": [tokenize.DetokenizeRequest],
    }
    return {
        "paths": {route.path: sorted(getattr(route, "methods", None) or ()) for route in app.routes},
        "fields": {
            path: sorted({name for model in models for name in model.model_fields}) for path, models in bodies.items()
        },
        "parsers": {
            "tool": sorted(ToolParserManager.list_registered()),
            "reasoning": sorted(ReasoningParserManager.list_registered()),
        },
        "given": sorted(
            {"messages", *_get_hf_base_chat_template_params(), *PreTrainedTokenizerBase.SPECIAL_TOKENS_ATTRIBUTES}
            | set(_compile_jinja_template("").globals) - {"range", "dict", "lipsum", "cycler", "joiner", "namespace"}
        ),
    }
