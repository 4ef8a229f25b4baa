"""The OpenAI-compatible front of production: follows the routes, streams answers, reports what it saw."""
