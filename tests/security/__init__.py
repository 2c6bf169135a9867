"""What must not be possible, for whoever tries: each file is one way of trying."""
