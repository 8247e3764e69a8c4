"""The Lightning module and its optimizer."""
