"""The node side: providers, the node machine, selection, and the client of node agents."""
