"""Pure decisions of the registry: nothing here reads a clock, a store or the bus."""
