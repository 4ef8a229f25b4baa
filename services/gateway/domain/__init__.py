"""Pure decisions of the gateway: the target of a request, its parameters, and the format of the answer."""
