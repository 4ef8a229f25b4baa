"""Permitted and refused fields of the OpenAI API, with reasons. A test compares them with the installed vLLM."""

from collections.abc import Mapping
from typing import Any, Final

_SAMPLING: Final = frozenset(
    {
        "allowed_token_ids",
        "bad_words",
        "frequency_penalty",
        "ignore_eos",
        "include_stop_str_in_output",
        "logit_bias",
        "logprob_token_ids",
        "min_p",
        "min_tokens",
        "model",
        "n",
        "presence_penalty",
        "prompt_logprobs",
        "repetition_detection",
        "repetition_penalty",
        "return_token_ids",
        "return_tokens_as_token_ids",
        "seed",
        "skip_special_tokens",
        "spaces_between_special_tokens",
        "stop",
        "stop_token_ids",
        "stream",
        "stream_options",
        "structured_outputs",
        "temperature",
        "thinking_token_budget",
        "top_k",
        "top_p",
        "truncate_prompt_tokens",
        "truncation_side",
        "user",
        "response_format",
        "add_special_tokens",
        "echo",
        "max_tokens",
        "logprobs",
    }
)
ALLOWED_FIELDS: Final[Mapping[str, frozenset[str]]] = {
    "chat": _SAMPLING
    | {
        "add_generation_prompt",
        "chat_template_kwargs",
        "continue_final_message",
        "documents",
        "include_reasoning",
        "max_completion_tokens",
        "messages",
        "parallel_tool_calls",
        "reasoning_effort",
        "return_prompt_text",
        "tool_choice",
        "tools",
        "top_logprobs",
    },
    "completion": _SAMPLING | {"prompt", "suffix"},
    "responses": frozenset(
        {
            "chat_template_kwargs",
            "frequency_penalty",
            "ignore_eos",
            "include",
            "include_reasoning",
            "include_stop_str_in_output",
            "input",
            "instructions",
            "logit_bias",
            "max_output_tokens",
            "max_tool_calls",  # of built-in tools, of which there are none
            "metadata",
            "min_p",
            "model",
            "parallel_tool_calls",
            "presence_penalty",
            "prompt_cache_key",
            "reasoning",
            "repetition_penalty",
            "seed",
            "skip_special_tokens",
            "stop",
            "stop_token_ids",
            "stream",
            "structured_outputs",
            "temperature",
            "text",
            "tool_choice",
            "tools",
            "top_k",
            "top_logprobs",
            "top_p",
            "truncation",
            "user",
        }
    ),
    "embeddings": frozenset(
        {
            "add_special_tokens",
            "dimensions",
            "encoding_format",
            "input",
            "model",
            "truncate_prompt_tokens",
            "truncation_side",
            "user",
        }
    ),
    "tokenize": frozenset(
        {
            "add_generation_prompt",
            "add_special_tokens",
            "chat_template_kwargs",
            "continue_final_message",
            "messages",
            "model",
            "prompt",
            "return_token_strs",
            "tools",
        }
    ),
    "detokenize": frozenset({"model", "tokens"}),
}
"""Permitted fields by kind of request; others are refused."""

REFUSED_FIELDS: Final[Mapping[str, str]] = {
    "add_generation_prompt": "this path takes no conversation",
    "chat_template_kwargs": "this path takes no conversation",
    "continue_final_message": "this path takes no conversation",
    "messages": "this path takes no conversation",
    "embed_dtype": "embeddings are numbers, or base64 of 32-bit floats",
    "endianness": "embeddings are numbers, or base64 of 32-bit floats",
    "padding": "the settings of the version decide it",
    "use_activation": "the settings of the version decide it",
    "prompt": "no prompts are stored",
    "background": "no answer is stored",
    "cache_salt": "all requests of a target share cached prefixes",
    "chat_template": "the template is a part of the version",
    "length_penalty": "beam search is not offered",
    "return_token_offsets": "it has no effect on this path",
    "use_beam_search": "beam search is not offered",
    "ec_transfer_params": "it addresses other machines",
    "enable_response_messages": "it returns the engine's internal messages",
    "kv_transfer_params": "it addresses other machines",
    "media_io_kwargs": "media are not supported",
    "mm_payload": "media are not supported",
    "mm_processor_kwargs": "media are not supported",
    "previous_input_messages": "no answer is stored",
    "previous_response_id": "no answer is stored",
    "priority": "all callers of a target have the same",
    "prompt_embeds": "it carries serialised tensors",
    "request_id": "send the header x-request-id",
    "return_mm_kwargs": "media are not supported",
    "routed_experts_prompt_start": "it returns the engine's internals",
    "session_id": "the gateway keeps a caller on one version by the field user",
    "store": "no answer is stored",
    "stream_interval": "each step of the engine is sent at once",
    "vllm_xargs": "its values reach plug-ins of the engine unchecked",
    "watermarking": "it belongs to the settings of a version",
}
"""Reasons for the refusal of fields that the engine knows; `null` and `false` count as absent."""

INTEGERS: Final = frozenset(
    {
        "dimensions",
        "max_completion_tokens",
        "max_output_tokens",
        "max_tokens",
        "max_tool_calls",
        "min_tokens",
        "n",
        "prompt_logprobs",
        "seed",
        "thinking_token_budget",
        "top_k",
        "top_logprobs",
        "truncate_prompt_tokens",
    }
)
"""Fields that must be integers: the engine would accept "16" and 16.0, which limits here do not count."""

RESPONSES_INCLUDE: Final = frozenset({"message.output_text.logprobs"})
"""Permitted values of `include`; the engine ignores others."""

NUMBERS: Final = frozenset(
    {"frequency_penalty", "min_p", "presence_penalty", "repetition_penalty", "temperature", "top_p"}
)
FLAGS: Final = frozenset(
    {
        "add_generation_prompt",
        "add_special_tokens",
        "continue_final_message",
        "echo",
        "ignore_eos",
        "include_reasoning",
        "include_stop_str_in_output",
        "parallel_tool_calls",
        "return_prompt_text",
        "return_token_ids",
        "return_token_strs",
        "return_tokens_as_token_ids",
        "skip_special_tokens",
        "spaces_between_special_tokens",
        "stream",
    }
)
"""Fields that must be numbers, or booleans: the engine would accept "2"."""

STRUCTURES: Final = frozenset({"choice", "json", "json_object"})
"""Permitted keys of `structured_outputs`; expressions and grammars are compiled without a time limit."""

RESPONSE_FORMATS: Final = frozenset({"json_object", "json_schema", "text"})
"""Permitted types of `response_format` and `text.format`."""

WITHOUT_EFFECT: Final[Mapping[str, tuple[Any, ...]]] = {
    "audio": (),
    "best_of": (1,),
    "function_call": ("none", "auto"),
    "functions": ([],),
    "modalities": (["text"],),
    "prediction": (),
    "service_tier": ("auto", "default"),
    "verbosity": (),
    "web_search_options": (),
}
"""OpenAI's fields that the engine does not know, with their permitted neutral values."""

FOR_THE_CALLER: Final = frozenset({"metadata", "prompt_cache_key", "prompt_cache_retention", "safety_identifier"})
"""Fields for the caller's records, without influence on the answer."""

_OF_A_REQUEST: Final = frozenset(
    {
        "add_generation_prompt",
        "chat_template",
        "continue_final_message",
        "conversation",
        "conversations",
        "documents",
        "messages",
        "raise_exception",
        "strftime_now",
        "tools",
    }
)
_OF_THE_TOKENIZER: Final = frozenset(
    {
        "bos_token",
        "cls_token",
        "eos_token",
        "mask_token",
        "max_length",
        "pad_token",
        "padding",
        "return_assistant_tokens_mask",
        "return_dict",
        "return_tensors",
        "self",
        "sep_token",
        "tokenize",
        "tokenizer_kwargs",
        "truncation",
        "unk_token",
    }
)
GIVEN_VARIABLES: Final = _OF_A_REQUEST | _OF_THE_TOKENIZER
"""Variables of chat templates that the engine, its tokenizer or request fields set: refused elsewhere.

A test compares them with the engine.
"""
