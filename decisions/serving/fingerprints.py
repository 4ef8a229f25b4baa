"""The `system_fingerprint` of answers."""

from contracts.vocabulary import Digest, Target


def fingerprint(target: Target | str, manifest_digest: Digest) -> str:
    """Return the `system_fingerprint`: the target, and a prefix of its manifest's digest."""
    return f"fp_{target}.{manifest_digest.removeprefix('sha256:')[:8]}"
