"""The applications that are measured: ours and other people's way of doing the same."""
