"""One module for each workload: ``measure(rounds) -> Measured`` and what it says about itself."""
