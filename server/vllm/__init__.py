"""Groundwire inside vLLM's server: an endpoint plugin whose answers vLLM writes and whose verdicts are ours.

Only `plugin` and what it imports run in vLLM's process; nothing here imports vLLM until then.
"""
