"""The statistics under an evaluation of a checkpoint: sequences, forecasts, fixed-look figures, lists and arms."""
