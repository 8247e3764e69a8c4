"""What a recipe can say: one strict, frozen class per section, and one recipe class per family."""
