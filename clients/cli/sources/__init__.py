"""Sources of published checkpoints and bases, and the checks before an upload."""
