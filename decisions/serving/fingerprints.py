"""The name of a release in answers."""

from contracts.vocabulary import Digest, Target


def fingerprint(target: Target | str, manifest_digest: Digest) -> str:
    """Return the `system_fingerprint`: the target, and enough of its manifest's digest to identify the files."""
    return f"fp_{target}.{manifest_digest.removeprefix('sha256:')[:8]}"
