"""Rollouts, pure: commands and what they make of each other, who gets which version, what the topic holds."""
