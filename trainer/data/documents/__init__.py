"""Documents that people write: Markdown, reStructuredText, HTML, plain text, Python and tables."""
