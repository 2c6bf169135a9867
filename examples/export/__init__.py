"""A data export that somebody has to approve."""
