"""The rollback-controller towards NATS, Triton and the gateway."""
