"""Slugs: the part of a URL that a person can read."""

import re


def slugify(text: str) -> str:
    """Return `text` as a slug: lower case, its words joined by single hyphens, nothing else."""
    return text.strip().replace(" ", "-")
