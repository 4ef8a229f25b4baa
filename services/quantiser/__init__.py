"""The quantiser: makes the requested precisions of a merged model, and measures their loss of quality."""
