"""Hundreds of tasks on servers that are bought for them, through the real stack, against a cloud that keeps books."""
