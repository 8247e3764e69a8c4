"""Images: where they are, how they are decoded, and the pixels that a model gets."""
