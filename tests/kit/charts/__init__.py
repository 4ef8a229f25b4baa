"""The Helm chart as its users render it, and what Kubernetes and its extensions would refuse."""
