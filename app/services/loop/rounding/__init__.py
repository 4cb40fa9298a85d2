"""What a round is made of: its plan, and the steps that it takes by itself."""
