"""Pure decisions of the mirror: what a registry should show, and what it lacks."""
