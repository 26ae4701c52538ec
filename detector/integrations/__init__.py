"""One thin adapter per framework, each in a module of its own that imports the framework it is for.

langchain: middleware for agents, a step for chains. chat_groundwire: ChatOpenAI that keeps the verdict of a Groundwire
server. llama_index: an evaluator and a query engine. haystack: a component. litellm: a guardrail for SDK and proxy.
ray: a class for Ray Data's map_batches. spark: a function for mapInPandas.
"""
