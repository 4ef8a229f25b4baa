"""The OpenAI API: a request from its acceptance to the end of its answer, and its mirrored copies."""
