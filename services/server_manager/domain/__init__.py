"""Pure decisions of server-manager: the desired targets, the loaded ones, and the actions between them."""
