"""A SAM tuned to a study, and the U-Net that prompts it."""
