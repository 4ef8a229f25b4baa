"""Pure decisions of the gateway: targets, request parameters, limits, drills and errors."""
