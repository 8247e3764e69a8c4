"""The keys of recipes: one strict, frozen class per section, and one recipe class per family."""
