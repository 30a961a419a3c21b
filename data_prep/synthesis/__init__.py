"""Questions and answers made from web pages, and from personas and skills (the paper's synthetic sources)."""
