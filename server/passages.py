"""What an answer must stay with, as the endpoint finds it: by the rule of `groundwire.conversation`."""

from __future__ import annotations

from groundwire.conversation import Found, found_passages

__all__ = ["Found", "found_passages"]
