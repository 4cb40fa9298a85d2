"""What a generation is made of: sources and sampling, prompts, answers as they arrive, pairs, cost."""
