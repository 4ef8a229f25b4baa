"""Hosts that fail: the cluster of compose.cluster.yaml, whose containers fail together, host by host, under load."""
