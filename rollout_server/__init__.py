"""Samples a student's answers with vLLM and takes its new weights after every optimizer step."""
