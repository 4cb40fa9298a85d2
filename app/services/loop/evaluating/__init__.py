"""What a blind batch is made of; `services.loop.evaluations` starts, seeds and ends them."""
