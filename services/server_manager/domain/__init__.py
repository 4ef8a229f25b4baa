"""Pure decisions of server-manager: desired targets, placement, actions, answers and alerts."""
