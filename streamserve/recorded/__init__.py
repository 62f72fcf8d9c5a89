"""Rows that workers recorded, as inputs of a model again, and two models' outputs held side by side.

What `model optimize`, `promote --check`, retraining and `replay --model-version` share.
"""
