"""The fused float modules."""
