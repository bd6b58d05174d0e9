"""The contract between trainer and teacher: schema, stubs, dataclasses, codec, errors and client.

Nothing here imports torch, transformers or vllm, so that anything that can speak gRPC can ask a teacher.
"""
