"""Adapted models asked: where they are found, how a question is put to them, and how their answers are written."""
