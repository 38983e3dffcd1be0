"""Sources, batches and the tokens of text and pictures."""
