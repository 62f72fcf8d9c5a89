"""Configuration: its shape, how it is read and checked, and what is generated from it."""
