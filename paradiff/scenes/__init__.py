"""The scenes world: pictures, words and rules whose truth is computable."""
