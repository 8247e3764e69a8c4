"""A router: it learns which way of searching to ask for a query, and when to ask all of them."""
