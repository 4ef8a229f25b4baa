"""The paths of the OpenAI API that an engine gets, and those that no caller may use, each with its reason.

A table of vLLM's own API: a test compares it with the installed engine, so that each new path is judged.
"""

from collections.abc import Mapping
from typing import Final

PATHS: Final[Mapping[str, str]] = {
    "/v1/chat/completions": "chat",
    "/v1/completions": "completion",
    "/v1/responses": "responses",
    "/v1/embeddings": "embeddings",
    "/tokenize": "tokenize",
    "/detokenize": "detokenize",
}
"""The paths that a caller may use, with POST, and the kind of request that each takes."""

REFUSED_PATHS: Final[Mapping[str, str]] = {
    "/abort_requests": "aborts the requests of other callers",
    "/adapters": "changes the model",
    "/adapters/{adapter_name}": "changes the model",
    "/collective_rpc": "calls any method of the engine",
    "/docs": "the paths of the API are listed in this module",
    "/docs/oauth2-redirect": "the paths of the API are listed in this module",
    "/finish_weight_update": "changes the model",
    "/generative_scoring": "scores texts in bulk, outside the limits of a request",
    "/get_world_size": "describes the machines",
    "/health": "the readiness of a target is a generated token, which the server manager asks for",
    "/inference/v1/abort_requests": "aborts the requests of other callers",
    "/inference/v1/generate": "takes token ids and engine parameters past all limits",
    "/init_weight_transfer_engine": "changes the model",
    "/invocations": "takes any request under one path",
    "/is_paused": "describes the machines",
    "/is_scaling_elastic_ep": "operates the engine",
    "/is_sleeping": "describes the machines",
    "/kv_event_sources": "describes the machines",
    "/load": "describes the machines",
    "/metrics": "the metrics of the engine are Triton's and the server manager's",
    "/openapi.json": "the paths of the API are listed in this module",
    "/pause": "operates the engine",
    "/ping": "the readiness of a target is a generated token, which the server manager asks for",
    "/redoc": "the paths of the API are listed in this module",
    "/release_kv_cache_memory": "operates the engine",
    "/reset_encoder_cache": "operates the engine",
    "/reset_mm_cache": "operates the engine",
    "/reset_prefix_cache": "operates the engine",
    "/resume": "operates the engine",
    "/scale_elastic_ep": "operates the engine",
    "/server_info": "describes the machines",
    "/shutdown_weight_transfer_engine": "changes the model",
    "/sleep": "operates the engine",
    "/start_draft_weight_update": "changes the model",
    "/start_weight_update": "changes the model",
    "/update_weight_version": "changes the model",
    "/update_weights": "changes the model",
    "/v1/chat/completions/batch": "takes many conversations in one request, outside its limits",
    "/v1/chat/completions/derender": "a part of the engine's own pipeline",
    "/v1/chat/completions/render": "a part of the engine's own pipeline",
    "/v1/completions/derender": "a part of the engine's own pipeline",
    "/v1/completions/render": "a part of the engine's own pipeline",
    "/v1/load_lora_adapter": "changes the model",
    "/v1/messages": "Anthropic's API is not offered",
    "/v1/messages/count_tokens": "Anthropic's API is not offered",
    "/v1/messages/render": "Anthropic's API is not offered",
    "/v1/models": "the gateway answers it from the routes",
    "/v1/responses/render": "a part of the engine's own pipeline",
    "/v1/responses/{response_id}": "no answer is stored",
    "/v1/responses/{response_id}/cancel": "no answer is stored",
    "/v1/systemone": "not a part of the OpenAI API",
    "/v1/unload_lora_adapter": "changes the model",
    "/v2/embed": "Cohere's API is not offered",
    "/version": "describes the machines",
    "/wake_up": "operates the engine",
    "/weight_checker": "operates the engine",
    "/weight_info": "describes the machines",
}
"""The other paths of the engine's application, those of its development mode too, and why no caller reaches them."""
