"""Evaluation: question sets, whoever answers them, the record of the answers, and the numbers made of it."""
