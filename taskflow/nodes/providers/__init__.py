"""Where servers come from. ``base`` is the port; each provider is a file."""
