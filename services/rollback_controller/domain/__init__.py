"""Pure decisions of the rollback-controller."""
