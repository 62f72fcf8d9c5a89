"""New versions of a model that are smaller or faster: each method, and how what it did is measured."""
