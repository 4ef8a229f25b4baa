"""The mirror: registered versions in the registries that people already use."""
