"""vLLM: rows captured in its own forward pass, folded in its worker, handed back as readouts.

Nothing here imports vLLM until it is used: `worker.Worker` is made when vLLM asks for it, `engine.VllmEngine` when it
is opened.
"""
