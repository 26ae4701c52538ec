"""Labelled rows made without labellers: documents from templates, edits of passages, and what is thrown away again."""
