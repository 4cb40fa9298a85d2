"""Label checks: pairs that contradict the others or would push the chosen answer down, and who is understood."""
