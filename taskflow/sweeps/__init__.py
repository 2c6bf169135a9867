"""Scheduled jobs, one per file, named by what they do. Each is bounded, isolated, and remembers its last success."""
