"""The vllm engine against stock vLLM: `make bench-vllm`."""
