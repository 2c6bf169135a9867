"""What each operation may cost, counted."""
