"""The pipelines the product ships."""
