"""Calls of a model behind an OpenAI-compatible endpoint: stored, within a budget, and each with one of few outcomes."""
