"""The registry: admission, immutable versions with lineage, and the state machine of a release."""
