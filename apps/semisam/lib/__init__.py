"""The methods of semisam: torch, MONAI and Ignite only, nothing of MONAI Label."""
